"""Fetch a model from the Hugging Face Hub into a folder."""

from __future__ import annotations

from pathlib import Path

from gptft.errors import GptftError, UserError
from gptft.models.bases import download_model, resolve_base, split_revision
from gptft.network import hub_errors, hub_problem


def pull(name: str, to: Path | None = None) -> Path:
    """Download a model: its safetensors and text files. What is in the folder already is not fetched again.

    Args:
        name: a Hub id; `@` and a branch, tag or commit may follow.
        to: the folder (default: the repository's own name, here).

    Returns:
        The folder, which every command takes.

    Raises:
        UserError: no such repository, or not one that holds a model; the folder holds something else.
        GptftError: the Hub or the network failed.
    """
    hub_id, revision = split_revision(name)
    folder = to or Path(hub_id.rpartition("/")[2])
    # What a pull leaves, finished or broken off.
    if folder.exists() and any(folder.iterdir()) and not (folder / ".cache" / "huggingface").is_dir():
        raise UserError(f"{folder} is there and was not pulled from the Hub: name another folder with --to.")
    with hub_errors(hub_id, revision=revision):
        reason = hub_problem(hub_id, "model", revision)
    if reason:
        raise GptftError(f"The Hugging Face Hub cannot be reached ({reason}), so {name} cannot be fetched.")
    download_model(hub_id, revision, folder)
    resolve_base(str(folder))
    return folder
