"""Push while a training goes on: what each checkpoint holds of the model."""

from __future__ import annotations

import os
import shutil
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from transformers import TrainerCallback

from gptft.errors import UserError
from gptft.hub.card import hub_base
from gptft.hub.push import check_personal_data, collect, known_license, upload
from gptft.models.adapters import name_base
from gptft.recipe.schema import HubSection
from gptft.runs.folder import Run


def check_ready(run: Run, section: HubSection) -> None:
    """See before a training that what it will push can be pushed.

    Raises:
        UserError: no token, no licence, no network wanted.
    """
    from huggingface_hub import constants, get_token

    missing = [
        *(["you are not logged in to the Hub: `hf auth login`"] if not get_token() else []),
        *(["no licence is known: say `hub.license`"] if not known_license(run) else []),
        *(["HF_HUB_OFFLINE is set"] if constants.HF_HUB_OFFLINE else []),
    ]
    if missing:
        raise UserError(f"hub.strategy is {section.strategy}, but {'; '.join(missing)}. Or leave hub.strategy out.")


class PushEachSave(TrainerCallback):
    """Pushes the model of each checkpoint, one at a time and beside the training; a failure is said, and no more."""

    def __init__(self, run: Run, section: HubSection, console: Console) -> None:
        self._run, self._section, self._console = run, section, console
        self._pool = ThreadPoolExecutor(1, "push")
        self._pending: Future[None] | None = None

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Push the checkpoint just written, unless the one before is still on its way."""
        if self._pending is None or self._pending.done():
            checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            # Links: the checkpoint may be removed before it has gone up.
            copy = Path(tempfile.mkdtemp(dir=checkpoint.parent, prefix=".push."))
            try:
                shutil.copytree(checkpoint, copy, copy_function=os.link, dirs_exist_ok=True)
            except OSError as error:  # shutil.Error too: a file system without links
                shutil.rmtree(copy, ignore_errors=True)
                self._say(state.global_step, error)
                return
            self._pending = self._pool.submit(self._push, copy, state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Wait for the push under way."""
        self._pool.shutdown()

    def _push(self, folder: Path, step: int) -> None:
        try:
            base = hub_base(self._run)
            if base and (folder / "adapter_config.json").is_file():
                name_base(folder, base, self._run.manifest["base"].get("revision"))
            contents = collect(self._run, self._section.repo_id, model=folder)
            check_personal_data(contents)
            section = self._section
            upload(contents, section.repo_id, section.private, section.revision, message=f"Step {step:,}")
        except Exception as error:  # nothing else would say it: no one asks the thread for its result
            self._say(step, error)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _say(self, step: int, error: Exception) -> None:
        self._console.print(f"[yellow]Step {step:,} was not pushed:[/yellow] {escape(str(error))}", soft_wrap=True)
