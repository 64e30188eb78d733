"""To the Hub and from it: `gptft push`, `gptft pull`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from gptft.cli.app import app
from gptft.errors import UserError

if TYPE_CHECKING:
    from gptft.runs import Run


@app.command()
def push(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN] [REPO_ID]", help="A run (else the latest), and where to: me/my-model."),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make the repository visible to you only.")] = False,
    revision: Annotated[str | None, typer.Option(help="The branch; it is made if it is not there.")] = None,
    tag: Annotated[str | None, typer.Option(help="Tag the commit: v1.")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Propose the change as a pull request.")] = False,
    message: Annotated[str | None, typer.Option("--message", help="The commit's message.")] = None,
    merge: Annotated[bool, typer.Option("--merge", help="Of an adapter, push the merged weights.")] = False,
    include: Annotated[list[str] | None, typer.Option(help="eval: scores and predictions too.")] = None,
    license: Annotated[str | None, typer.Option(help="mit, cc-by-sa-4.0, ...; default: the base's.")] = None,
    language: Annotated[list[str] | None, typer.Option(help="en, zh, ...; default: the base's.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be sent.")] = False,
    allow_personal_data: Annotated[
        bool, typer.Option("--allow-personal-data", help="Send what looks like personal data or secrets.")
    ] = False,
) -> None:
    """Publish a run on the Hugging Face Hub: its model and a model card, nothing else."""
    from gptft.hub import push as pushing

    run, repo_id = _run_and_target(list(arguments or []))
    license = license or pushing.known_license(run)
    if not license and sys.stdin.isatty():
        license = typer.prompt("The licence of the result (mit, apache-2.0, cc-by-sa-4.0, other, ...)")
    options = {"merge": merge, "include": include or (), "license": license, "language": language or ()}
    if dry_run:
        contents = pushing.collect(run, repo_id, **options)
        for name, size in contents.sizes():
            print(f"{size:>13,}  {name}")
        total = sum(size for _, size in contents.sizes())
        print(f"{total:>13,}  bytes in all, to {repo_id}. Nothing was sent.")
        return None if allow_personal_data else pushing.check_personal_data(contents)
    pushed = pushing.push(
        run,
        repo_id,
        private=private,
        revision=revision,
        tag=tag,
        create_pr=create_pr,
        message=message,
        allow_personal_data=allow_personal_data,
        **options,
    )
    print(pushed.url)
    said = f"commit {pushed.commit[:8]}" if pushed.new else "nothing had changed since the last push: no new commit"
    Console(stderr=True).print(said, highlight=False)


def _run_and_target(words: list[str]) -> tuple[Run, str]:
    """The run that is meant, and the repository, by the words of the command or the run's recipe."""
    from gptft.hub.push import hub_section
    from gptft.runs import find_run, latest_run

    if len(words) > 2:
        raise UserError("Expected a run and a repository: gptft push [RUN] me/my-model")
    named = find_run(words[0]) if words else None
    if len(words) == 2 and named is None:
        raise UserError(f"{words[0]} is no run: expected a folder in runs/, as in gptft push runs/NAME {words[1]}")
    run = named or latest_run()
    if words and not (named and len(words) == 1):
        return run, words[-1]
    section = hub_section(run)
    if section is None:
        raise UserError("Where to? Name a repository (gptft push me/my-model), or `hub.repo_id` in the recipe.")
    return run, section.repo_id


@app.command()
def pull(
    repo_id: Annotated[str, typer.Argument(metavar="HUB_ID[@REVISION]", help="What to fetch: me/my-model@v1.")],
    to: Annotated[Path | None, typer.Option(help="The folder to put it in (default: the repository's name).")] = None,
) -> None:
    """Download a model from the Hub into a folder: safetensors and texts only."""
    from gptft.hub.pull import pull as run_pull

    print(run_pull(repo_id, to))
