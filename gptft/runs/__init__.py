"""What a fine-tuning leaves: its folder, its manifest, the newest of them."""

from gptft.runs.folder import Run, find_run, latest_run, new_run

__all__ = ["Run", "find_run", "latest_run", "new_run"]
