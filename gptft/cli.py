"""The commands: each parses its arguments, calls one function and prints what it gives.

Nothing here imports torch at the top: `gptft --help` must be there at once.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from gptft.errors import GptftError, UserError
from gptft.files import write_text_atomically
from gptft.metrics.catalogue import BUILT_IN, GROUPS

if TYPE_CHECKING:
    from rich.table import Table

    from gptft.models.loading import LoadedModel

app = typer.Typer(
    help="Fine-tune GPT-2-family models: one recipe to a trained, scored, loadable model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog="Every command takes --debug, which shows the traceback of a failure.",
)
recipes_app = typer.Typer(help="List the recipes that ship with gptft, copy one, or print the schema.")
app.add_typer(recipes_app, name="recipes")

RecipeArgument = Annotated[Path, typer.Argument(help="The recipe, a YAML file (`gptft recipes` lists some).")]
Target = Annotated[
    str | None,
    typer.Argument(
        metavar="[RUN|MODEL|HUB_ID]", help="A run, a model folder, a Hub id or `starter`; else the latest run."
    ),
]


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        from importlib.metadata import version as installed

        print(f"gptft {installed('gptft')}")
        raise typer.Exit


@app.command()
def finetune(
    recipe: RecipeArgument,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Settings over the recipe's: training.learning_rate=1e-4"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the newest unfinished run of this recipe.")
    ] = False,
    no_fallback: Annotated[
        bool, typer.Option("--no-fallback", help="Fail when the base cannot be had, in place of using the starter.")
    ] = False,
) -> None:
    """Fine-tune what a recipe says; the result is a folder in runs/."""
    from gptft.recipe import load_recipe

    changes = [*(overrides or []), *(["model.fallback=null"] if no_fallback else [])]
    loaded = load_recipe(recipe / "recipe.yaml" if (recipe / "recipe.yaml").is_file() else recipe, changes)
    from gptft.training.finetune import finetune as run_finetune

    run = run_finetune(loaded, resume=resume)
    if run.manifest["state"] == "stopped":
        raise typer.Exit(130)
    has_held_out = loaded.data.test is not None or loaded.data.validation is not None
    print(run.folder)
    hints = [*(["gptft eval"] if has_held_out else []), *(["gptft chat"] if loaded.task == "dialogue" else [])]
    hints += ['gptft predict "TEXT"'] if loaded.task in ("classification", "completion") else []
    if hints:
        Console(stderr=True).print("Next: " + ", ".join(hints), highlight=False)


@app.command("eval")
def evaluate(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN|MODEL|HUB_ID",
            help="Runs, model folders, Hub ids or `starter`, several for one table; else the latest run.",
        ),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            "-m",
            help=f"{', '.join([*BUILT_IN, *GROUPS])}; with options: bleu:tokenize=zh; or what `evaluate.load` takes. "
            "May be repeated.",
        ),
    ] = None,
    split: Annotated[str | None, typer.Option(help="test or validation (default: test if there is one).")] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(
            help="Recipe that names the data: for a model that is not a run, or to score a run on other rows."
        ),
    ] = None,
    max_rows: Annotated[
        int | None,
        typer.Option(min=1, help="Answer at most so many rows."),
    ] = None,
    no_base: Annotated[bool, typer.Option("--no-base", help="Leave out the base's scores.")] = False,
    trust_remote_metric: Annotated[
        bool, typer.Option("--trust-remote-metric", help="Run the code of a metric from the Hub on this machine.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print only JSON.")] = False,
) -> None:
    """Score models on held-out rows, with 95% intervals and the base's scores beside them."""
    from gptft.evaluation import evaluate as run_evaluate
    from gptft.evaluation.scores import runs_table, scores_table
    from gptft.recipe import load_recipe

    loaded = load_recipe(recipe) if recipe else None
    results = [
        run_evaluate(
            target,
            metrics=metric or (),
            split=split,
            recipe=loaded,
            compare_base=not no_base,
            max_rows=max_rows,
            trust_remote_metric=trust_remote_metric,
        )
        for target in targets or [None]
    ]
    if as_json:
        values = [result.to_dict() for result in results]
        print(json.dumps(values[0] if len(values) == 1 else values, indent=2, ensure_ascii=False))
        return
    first = results[0]
    if len(results) > 1:
        Console().print(runs_table([(result.label, result.split, result.rows, result.scores) for result in results]))
    else:
        base = f", base: {first.base}" if first.base_scores else ""
        Console().print(scores_table(first.scores, first.base_scores, title=escape(f"{first.split} split{base}")))
    for result in results:
        if result.folder:
            Console(stderr=True).print(f"Predictions and scores are in {escape(str(result.folder))}.", highlight=False)


@app.command("compare")
def compare_runs(
    first: Annotated[str, typer.Argument(metavar="RUN_A", help="A run that was evaluated.")],
    second: Annotated[
        str | None, typer.Argument(metavar="[RUN_B]", help="Another; left out: RUN_A against its own base.")
    ] = None,
    metric: Annotated[list[str] | None, typer.Option("--metric", "-m", help="A metric; may be repeated.")] = None,
    split: Annotated[str | None, typer.Option(help="test or validation (default: test if there is one).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print only JSON.")] = False,
) -> None:
    """Tell whether one run is better than another: paired tests on the same rows."""
    from gptft.evaluation import compare

    found = compare.compare(first, second, metrics=metric or (), split=split)
    if as_json:
        print(json.dumps(compare.to_json(found), indent=2, ensure_ascii=False))
        return
    names = [Path(name).name for name in ((first, second) if second else ("base", first))]
    Console().print(compare.comparison_table(found, *names))


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
    name, loaded = _load(words[0] if words else None)
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
    """What a run's recipe calls the columns; nothing for a model that is no run."""
    import yaml

    from gptft.runs import find_run

    run = None if target == "starter" else find_run(target)
    # Not by load_recipe: the data may be gone by now.
    recipe = yaml.safe_load(run.recipe_file.read_text(encoding="utf-8")) if run else {}
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
    name, loaded = _load(target)
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
    name, loaded = _load(model)
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


def bars_table(title: str, columns: list[str]) -> Table:
    """A table whose rows end in a probability and a bar of its length."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left")
    for name in [*columns, "probability", ""]:
        table.add_column(name, justify="left" if name in (columns[0], "") else "right")
    return table


def add_bar(table: Table, cells: list[str], share: float) -> None:
    """Add a row to a `bars_table`."""
    from rich.text import Text

    table.add_row(*map(Text, cells), f"{share:.2%}", "█" * round(share * 40))


@recipes_app.callback(invoke_without_command=True)
def list_recipes(context: typer.Context) -> None:
    """List the recipes that ship with gptft."""
    if context.invoked_subcommand:
        return
    from rich.table import Table

    from gptft.recipe import list_recipes as shipped

    table = Table("recipe", "what it is for", box=None)
    for recipe in shipped():
        table.add_row(recipe.name, recipe.description)
    Console().print(table)
    print("\nTake one with: gptft recipes copy NAME")


@recipes_app.command("copy")
def copy_recipe(
    name: Annotated[str, typer.Argument(help="Its name in `gptft recipes`.")],
    to: Annotated[Path, typer.Option(help="The folder to copy it to.")] = Path("."),
) -> None:
    """Write a recipe and its data to the current folder."""
    from gptft.recipe import copy_recipe as run_copy

    print(run_copy(name, to))


@recipes_app.command("schema")
def print_schema() -> None:
    """Print the JSON schema of recipes, for editors."""
    from gptft.recipe import json_schema

    print(json.dumps(json_schema(), indent=2, ensure_ascii=False))


def _load(target: str | None) -> tuple[str, LoadedModel]:
    from gptft.runs import find_run

    run = None if target == "starter" else find_run(target)
    from gptft.models.loading import load_model
    from gptft.models.precision import best_device
    from gptft.models.quiet import quiet_libraries

    quiet_libraries()
    if run and not run.model.is_dir():
        raise UserError(f"{run.folder} has no model yet. Finish it: gptft finetune {run.recipe_file} --resume")
    loaded = load_model(str(run.model) if run else str(target))
    loaded.model.to(best_device())
    return run.folder.name if run else str(target), loaded


def main() -> None:
    """Run a command; failures become one message and an exit code: 2 for the user's mistakes, 1 for failures."""
    debug = "--debug" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    try:
        app()
    except GptftError as error:
        if debug:
            raise
        Console(stderr=True).print(f"[bold red]Error:[/bold red] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except Exception as error:
        if debug:
            raise
        text = f"{type(error).__name__}: {error}".strip()
        print(
            f"Error: something failed that should not have: {text}\nRun it again with --debug for the traceback.",
            file=sys.stderr,
        )
        sys.exit(1)
