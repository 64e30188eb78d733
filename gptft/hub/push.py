"""Push a run to the Hugging Face Hub: model and card in one commit, and nothing else unless asked."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from rich.console import Console

from gptft.errors import UserError
from gptft.hub.card import CardSettings, hub_base, make_card
from gptft.hub.privacy import find_personal_data
from gptft.models.bases import STARTER
from gptft.network import hub_errors
from gptft.recipe.schema import HubSection
from gptft.report.curves import save_loss_curve
from gptft.runs.folder import Run
from gptft.runs.listing import read_evaluations, read_recipe

PICTURES = "pictures"
OWN_FILES = (
    *("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "adapter_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json"),
    *("merges.txt", "vocab.txt", "*.model", "*.jinja", f"{PICTURES}/*", "eval/*"),
)
"""What pushes put into a repository, and no name that a user's own file is likely to have: of these, a push removes
what the run has no more."""
READ_FOR_SECRETS = (".md", ".jinja", ".jsonl", ".json")
NOT_READ = ("tokenizer.json", "vocab.json", "model.safetensors.index.json")
RETRIES = (1.0, 4.0, 10.0)
"""Seconds to wait before a commit is tried again that the Hub, not the user, failed."""
PASSING = (408, 409, 412, 429, 500, 502, 503, 504)
"""HTTP answers to a commit after which the same commit can succeed."""


@dataclass(frozen=True)
class Contents:
    """What goes up: name in the repository -> file, or text made for it."""

    files: dict[str, Path]
    texts: dict[str, str]

    def sizes(self) -> list[tuple[str, int]]:
        """Each name with its size in bytes, in the order of names."""
        sizes = {name: file.stat().st_size for name, file in self.files.items()}
        return sorted((sizes | {name: len(text.encode()) for name, text in self.texts.items()}).items())


@dataclass(frozen=True)
class Pushed:
    """Where a push went. `commit` is the commit that the repository is at, `new` whether this push made it."""

    url: str
    commit: str
    new: bool


def push(
    run: Run,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    tag: str | None = None,
    create_pr: bool = False,
    message: str | None = None,
    merge: bool = False,
    include: Sequence[str] = (),
    license: str | None = None,
    language: Sequence[str] = (),
    allow_personal_data: bool = False,
    console: Console | None = None,
) -> Pushed:
    """Publish a run's model with its card: creates the repository, and makes one commit, or none if nothing changed.

    A push that broke off is begun again by the same call; what the Hub has by then is not sent again.

    Args:
        run: a finished run.
        repo_id: the repository, as in `me/my-model`.
        private: make the repository visible to its owner only, where it is made (also where the recipe says so).
        revision: the branch, made if it is not there (default: the recipe's, else main).
        tag: a tag for the commit.
        create_pr: propose the change in place of making it.
        message: the commit's message.
        merge: of an adapter, publish the merged weights.
        include: `eval` for the scores and predictions.
        license: by the Hub's name for it (default: the base's).
        language: ISO codes (default: the base's).
        allow_personal_data: publish what looks like personal data or secrets.
        console: where progress is said (default: standard error).

    Raises:
        UserError: nothing to push, no licence, personal data; no token, no right.
        GptftError: the Hub or the network failed.
    """
    from huggingface_hub import get_token

    contents = collect(run, repo_id, merge=merge, include=include, license=license, language=language)
    if not allow_personal_data:
        check_personal_data(contents)
    if not get_token():
        raise UserError("You are not logged in to the Hub: `hf auth login`, with a token that may write.")
    section = hub_section(run)
    private = private or bool(section and section.private)
    revision = revision or (section and section.revision)
    console = console or Console(stderr=True)
    console.print(f"Pushing {len(contents.sizes())} files to {repo_id}", highlight=False, markup=False)
    return upload(
        contents, repo_id, private, revision, tag, create_pr, message or f"{run.manifest.get('name', 'model')} by gptft"
    )


def collect(
    run: Run,
    repo_id: str,
    *,
    merge: bool = False,
    include: Sequence[str] = (),
    license: str | None = None,
    language: Sequence[str] = (),
    model: Path | None = None,
) -> Contents:
    """What a push of a run holds.

    Args:
        run: with its model, or with `model` in its place.
        repo_id: where it will go; the card names it.
        merge: of an adapter, the merged weights.
        include: `eval` for the scores and predictions.
        license: by the Hub's name for it (default: the recipe's, else the base's).
        language: ISO codes (default: likewise).
        model: the folder of the model (default: the run's result, the adapter where there is one and not `merge`).

    Raises:
        UserError: the run has no model yet; the base of its adapter is not on the Hub; there is no licence.
    """
    from huggingface_hub.utils import validate_repo_id

    if unknown := set(include) - {"eval"}:
        raise UserError(f"--include {', '.join(sorted(unknown))}: expected eval.")
    adapter = run.adapter.is_dir() and not merge
    folder = model or (run.adapter if adapter else run.model)
    if not folder.is_dir():
        raise UserError(f"{run.folder} has no model yet. Finish it: gptft finetune {run.recipe_file} --resume")
    if adapter and not hub_base(run):
        raise UserError(
            f"{run.folder} is an adapter of a base that is not on the Hub "
            f"({run.manifest['base']['used']}): no one else could load it. Push the merged weights: --merge"
        )
    license = license or known_license(run)
    if not license:
        raise UserError(
            f"The licence of the base of {run.folder} is not known here. Say which one the result has: --license mit "
            "(or `hub.license` in the recipe), by its name on the Hub; `other` if it has none of these."
        )
    with hub_errors(repo_id):
        validate_repo_id(repo_id)
    files = {file.name: file for file in sorted(folder.iterdir()) if _is_own(file.name)}
    settings = CardSettings(repo_id, license, list(language) or known_language(run), adapter)
    pictures = _pictures(run)
    if "eval" in include:
        found = sorted((run.folder / "eval").glob("*/*.json*"))
        files |= {f"eval/{file.parent.name}/{file.name}": file for file in found}
    names = {title: f"{PICTURES}/{file.name}" for title, file in pictures.items()}
    files |= {f"{PICTURES}/{file.name}": file for file in pictures.values()}
    return Contents(files, {"README.md": str(make_card(run, folder, settings, names))})


def check_personal_data(contents: Contents) -> None:
    """Stop at what should not be published.

    Raises:
        UserError: with all the places.
    """
    from huggingface_hub import get_token

    read = {
        name: file.read_text(encoding="utf-8")
        for name, file in contents.files.items()
        if name.endswith(READ_FOR_SECRETS) and Path(name).name not in NOT_READ
    }
    findings = find_personal_data({**contents.texts, **read}, [get_token() or ""])
    if findings:
        shown = [f"  {finding}" for finding in findings[:20]]
        more = [f"  ... and {len(findings) - 20} more"] if len(findings) > 20 else []
        raise UserError(
            "\n".join(
                [
                    f"What would be published holds {len(findings)} things that look like personal data or secrets:",
                    *shown,
                    *more,
                    "Nothing was sent. Remove them from the data and train again; or, if they are no one's, publish "
                    "them with --allow-personal-data.",
                ]
            )
        )


def upload(
    contents: Contents,
    repo_id: str,
    private: bool = False,
    revision: str | None = None,
    tag: str | None = None,
    create_pr: bool = False,
    message: str = "",
) -> Pushed:
    """Send contents to a repository of the Hub as one commit; see `push`."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi(library_name="gptft")
    with hub_errors(repo_id, revision=revision):
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        before = api.model_info(repo_id, revision=revision)
        operations: list[Any] = [
            *(CommitOperationAdd(name, file) for name, file in contents.files.items()),
            *(CommitOperationAdd(name, text.encode()) for name, text in contents.texts.items()),
        ]
        names = {operation.path_in_repo for operation in operations}
        there = [one.rfilename for one in before.siblings or []]
        gone = [name for name in there if name not in names and _is_own(name)]
        operations += [CommitOperationDelete(name) for name in gone]
        info = _commit(api, repo_id, operations, message, revision, create_pr)
        if tag:
            _tag(api, repo_id, tag, info.oid)
        new = info.oid != before.sha
        return Pushed(info.pr_url or f"{api.endpoint}/{repo_id}", info.oid, new)


def _is_own(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in OWN_FILES)


def _commit(api: Any, repo_id: str, operations: list[Any], message: str, revision: str | None, create_pr: bool) -> Any:
    """Commit, again where the Hub failed; what was uploaded is not sent a second time."""
    from huggingface_hub.errors import HfHubHTTPError

    for wait in (*RETRIES, None):
        try:
            return api.create_commit(
                repo_id, operations, commit_message=message, revision=revision, create_pr=create_pr
            )
        except HfHubHTTPError as error:
            if wait is None or error.response.status_code not in PASSING:
                raise
        except OSError:  # the connection broke
            if wait is None:
                raise
        time.sleep(wait)


def _tag(api: Any, repo_id: str, tag: str, commit: str) -> None:
    tags = {found.name: found.target_commit for found in api.list_repo_refs(repo_id).tags}
    if tag in tags and tags[tag] != commit:
        raise UserError(f"{repo_id} has a tag {tag} already, at another commit ({tags[tag][:8]}). Choose another name.")
    if tag not in tags:
        api.create_tag(repo_id, tag=tag, revision=commit)


def _pictures(run: Run) -> dict[str, Path]:
    pictures = {}
    curve = run.folder / "loss.png"
    if save_loss_curve(run, curve):
        pictures["Loss"] = curve
    for split, _ in read_evaluations(run):
        matrix = run.evaluation(split) / "confusion_matrix.png"
        if matrix.is_file():
            pictures[f"Confusion matrix ({split})"] = matrix
            break
    return pictures


def hub_section(run: Run) -> HubSection | None:
    """What a run's recipe says of the Hub."""
    section = read_recipe(run).get("hub")
    return HubSection.model_validate(section) if section else None


def known_license(run: Run) -> str | None:
    """The licence that the recipe names, else that of the base; None where neither is known."""
    section = hub_section(run)
    return (section and section.license) or base_card(run).get("license")


def known_language(run: Run) -> list[str]:
    """The languages that the recipe names, else those of the base; none where neither is known."""
    section = hub_section(run)
    found = (section and section.language) or base_card(run).get("language") or []
    return [found] if isinstance(found, str) else list(found)


def base_card(run: Run) -> dict[str, Any]:
    """The metadata in the card of a run's base, where it can be had."""
    from huggingface_hub import ModelCard, hf_hub_download

    base = run.manifest.get("base") or {}
    name, used = hub_base(run), base.get("used") or ""
    try:
        if name:
            file = Path(hf_hub_download(name, "README.md", revision=base.get("revision"), etag_timeout=5))
        else:
            file = (STARTER if used == "starter" else Path(used)) / "README.md"
        return ModelCard(file.read_text(encoding="utf-8"), ignore_metadata_errors=True).data.to_dict()
    except (OSError, ValueError):  # there is none, or it cannot be had
        return {}
