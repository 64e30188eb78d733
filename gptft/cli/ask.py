"""Ask a model: `gptft chat`, `gptft predict`, `gptft next`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from gptft.cli.app import Target, add_bar, app, bars_table, load_target
from gptft.errors import UserError
from gptft.files import write_text_atomically


@app.command()
def predict(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="RUN|MODEL|HUB_ID TEXT", help="A model (else the latest run), and a text."),
    ] = None,
    file: Annotated[Path | None, typer.Option(help="Answer the rows of a .csv, .jsonl or .parquet file.")] = None,
    output: Annotated[Path | None, typer.Option(help="Write the rows here (.csv or .jsonl; default: print).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print only JSON.")] = False,
) -> None:
    """Give labels or completions for a text, or for each row of a file."""
    words = list(arguments or [])
    if len(words) > (1 if file else 2) or not (file or words):
        raise UserError('Expected a text or a file: gptft predict [RUN] "TEXT", or gptft predict [RUN] --file ROWS.csv')
    text = None if file else words.pop()
    name, loaded = load_target(words[0] if words else None)
    from gptft.evaluation.predict import Predictor, predict_file

    predictor = Predictor(loaded, _columns(words[0] if words else None))
    if file:
        as_csv = (output or file).name.removesuffix(".gz").lower().endswith(".csv")
        written = predict_file(predictor, file, as_csv)
        if output:
            write_text_atomically(output, written)
            return Console(stderr=True).print(f"The rows are in {escape(str(output))}.", highlight=False)
        return print(written, end="")
    answer = predictor.texts([str(text)])[0]
    if as_json:
        return print(json.dumps(answer._asdict(), ensure_ascii=False))
    print(", ".join(answer.prediction) if isinstance(answer.prediction, list) else answer.prediction)
    if answer.probabilities:
        table = bars_table(f"{name}: probabilities", ["label"])
        for label, share in sorted(answer.probabilities.items(), key=lambda pair: -pair[1])[:5]:
            add_bar(table, [label], share)
        Console(stderr=True).print(table)


def _columns(target: str | None) -> dict[str, str]:
    """What the recipe of a run, or in a model's card, calls the columns."""
    from gptft.models.bases import resolve_base
    from gptft.recipe.cards import read_card
    from gptft.runs import find_run
    from gptft.runs.listing import read_recipe

    run = None if target == "starter" else find_run(target)
    recipe = read_recipe(run) if run else None
    recipe = recipe or read_card(resolve_base(str(target)).folder)
    return recipe.get("data", {}).get("columns", {})


@app.command()
def chat(
    target: Target = None,
    message: Annotated[
        str | None,
        typer.Option("--message", help="Ask this one thing, print the answer, and end."),
    ] = None,
    system: Annotated[str | None, typer.Option(help="Begin with this system message.")] = None,
) -> None:
    """Talk to a model in the terminal."""
    name, loaded = load_target(target)
    from gptft.models.classes import SETTINGS

    task = getattr(loaded.model.config, SETTINGS, {}).get("task", "dialogue")
    if task in ("classification", "completion") or not loaded.model.can_generate():
        command = " ".join(filter(None, ("gptft predict", target)))
        raise UserError(f'{name} was trained for {task}, not to talk: {command} "TEXT"')
    from gptft.serving.chat import Conversation
    from gptft.serving.chat import chat as run_chat

    conversation = Conversation(loaded)
    conversation.reset(system)
    if message is None:
        run_chat(conversation, Console(highlight=False), name)
    else:
        print("".join(conversation.ask(message)).strip())


@app.command("next")
def next_token(
    text: Annotated[str, typer.Argument(help='What stands before: "Hello, my dog is cute"')],
    model: Annotated[
        str | None,
        typer.Option(help="A run, a model folder, a Hub id or `starter`; else the latest run."),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="How many candidates.")] = 10,
) -> None:
    """Show the model's prediction: the distribution of the next token, from its logits."""
    name, loaded = load_target(model)
    if not loaded.model.can_generate():
        raise UserError(f"{name} has a head for labels in place of one for tokens: gptft predict shows what it says.")
    from gptft.models.logits import next_tokens

    ids = loaded.tokenizer(text, add_special_tokens=False)["input_ids"][-loaded.positions :]
    if not ids:
        raise UserError("The text is empty, so there is nothing to go on from.")
    table = bars_table(f"{name}: the next token after {text!r}", ["token", "id", "logit"])
    for candidate in next_tokens(loaded.model, loaded.tokenizer, ids, count):
        cells = [repr(candidate.token), str(candidate.token_id), f"{candidate.logit:.2f}"]
        add_bar(table, cells, candidate.probability)
    Console().print(table)
