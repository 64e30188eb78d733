"""What can be learned: one module a task, all with the same small interface (`tasks.base.Task`)."""

from __future__ import annotations

from gptft.tasks.base import Preparation, Prompt, Task
from gptft.tasks.dialogue import Dialogue
from gptft.tasks.pretraining import Pretraining

TASKS: dict[str, Task] = {task.name: task for task in (Dialogue(), Pretraining())}

__all__ = ["TASKS", "Preparation", "Prompt", "Task"]
