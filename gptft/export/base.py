"""What every format has in common: what it needs and takes, how it is written, how it is read back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from gptft.errors import UserError
from gptft.models.loading import LoadedModel

Reader = Callable[[Sequence[int]], Tensor]
"""Token ids to float32 logits on the CPU: (length, vocabulary), or (1, classes) of a sequence classifier."""


class Format(ABC):
    """A kind of export."""

    name: ClassVar[str]
    extra: ClassVar[str] = ""
    """The optional dependencies that bring `packages`: `pip install 'gptft[EXTRA]'`."""
    packages: ClassVar[tuple[str, ...]] = ()
    """The modules that writing and reading need."""
    quantizations: ClassVar[tuple[str, ...]] = ("float32",)
    """What its weights can be kept in, the default first."""
    classifiers: ClassVar[bool] = False
    """Whether it takes models with a head for sequences."""

    def check_packages(self) -> None:
        """Raise a UserError that says how to install what is missing."""
        if missing := [name for name in self.packages if find_spec(name) is None]:
            raise UserError(
                f"--to {self.name} needs {', '.join(missing)}, not installed here: pip install 'gptft[{self.extra}]'"
            )

    def check_model(self, loaded: LoadedModel) -> None:
        """Raise a UserError where the format cannot hold the model."""
        if not self.classifiers and not loaded.model.can_generate():
            raise UserError(
                f"--to {self.name} takes language models, and this one has a head for labels "
                f"({type(loaded.model).__name__}). Formats that take it: merged, onnx."
            )

    @abstractmethod
    def write(self, loaded: LoadedModel, folder: Path, quantization: str) -> None:
        """Write the export into an empty folder."""

    @abstractmethod
    def reader(self, loaded: LoadedModel, folder: Path) -> tuple[str, Reader]:
        """Load a written export as its users would; also gives the name of the package that does."""
