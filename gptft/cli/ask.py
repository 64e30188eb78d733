"""Ask a model: `gptft chat`, `gptft predict`, `gptft next`."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from gptft.cli.app import Target, add_bar, app, bars_table, load_target
from gptft.errors import UserError
from gptft.files import write_text_atomically

if TYPE_CHECKING:
    from gptft.models.loading import LoadedModel


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
    web: Annotated[bool, typer.Option("--web", help="Talk in the browser: prints the address of a page.")] = False,
    beside: Annotated[
        str | None, typer.Option(help="With --web: another model to answer beside it, or `base` for the run's own.")
    ] = None,
    thumbs: Annotated[
        Path | None, typer.Option(help="With --web: the folder that thumbs are saved in (default: RUN/thumbs).")
    ] = None,
    host: Annotated[str, typer.Option(help="With --web: who may connect; by default this machine.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="With --web: 0 takes a free one.")] = 7860,
) -> None:
    """Talk to a model in the terminal, or in the browser."""
    if not web and (beside or thumbs):
        raise UserError(f"{'--beside' if beside else '--thumbs'} is for the page: gptft chat --web")
    if web and message is not None:
        raise UserError("--message is for the terminal: leave it out, or leave out --web")
    missing = [package for package in ("starlette", "uvicorn") if web and find_spec(package) is None]
    if missing:
        raise UserError(f"--web needs {', '.join(missing)}, not installed here: pip install 'gptft[ui]'")
    name, loaded = _load_to_talk(target)
    if web:
        return _serve_page(target, name, loaded, beside, thumbs, system or "", (host, port))
    from gptft.serving.chat import Conversation
    from gptft.serving.chat import chat as run_chat

    conversation = Conversation(loaded)
    conversation.reset(system)
    if message is None:
        run_chat(conversation, Console(highlight=False), name)
    else:
        print("".join(conversation.ask(message)).strip())


def _load_to_talk(target: str | None) -> tuple[str, LoadedModel]:
    name, loaded = load_target(target)
    from gptft.models.classes import SETTINGS

    task = getattr(loaded.model.config, SETTINGS, {}).get("task", "dialogue")
    if task in ("classification", "completion") or not loaded.model.can_generate():
        command = " ".join(filter(None, ("gptft predict", target)))
        raise UserError(f'{name} was trained for {task}, not to talk: {command} "TEXT"')
    return name, loaded


def _serve_page(
    target: str | None,
    name: str,
    loaded: LoadedModel,
    beside: str | None,
    thumbs: Path | None,
    system: str,
    place: tuple[str, int],
) -> None:
    from gptft.evaluation.evaluate import load_base_of
    from gptft.runs import find_run
    from gptft.serving.web import LOOPBACK, make_app, serve

    run, models = None if target == "starter" else find_run(target), [(name, loaded)]
    if beside == "base":
        if run is None:
            raise UserError(f"{name} is no run, so its base is not known. Name it: --beside MODEL")
        models.append(load_base_of(run, loaded))
    elif beside:
        models.append(_load_to_talk(beside))
    console = Console(highlight=False, soft_wrap=True)
    if place[0] not in LOOPBACK:
        console.print("[yellow]Anyone who can reach this machine can use the page:[/yellow] it asks for no password.")
    console.print(f"Talk to {escape(' beside '.join(name for name, _ in models))}; Ctrl-C ends it.")
    app = make_app(models, thumbs or (run.folder if run else Path()) / "thumbs", system, place[0])
    serve(app, *place, console.print)


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
