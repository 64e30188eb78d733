"""Sweeps: one recipe tried with many values, by Optuna; the best of them as a recipe."""

from gptft.errors import UserError

try:
    import optuna  # noqa: F401 - an extra of gptft
except ModuleNotFoundError as error:
    raise UserError("`gptft sweep` needs Optuna, which is not installed: pip install 'gptft[sweep]'") from error

from gptft.sweeps.sweep import Sweep, sweep

__all__ = ["Sweep", "sweep"]
