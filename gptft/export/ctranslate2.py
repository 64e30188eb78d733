"""Format ctranslate2: a folder for CTranslate2, a fast runtime for CPU and GPU, made by its own converter."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from gptft.errors import UserError
from gptft.export.base import Format, Reader
from gptft.models.loading import LoadedModel, save_model


class CTranslate2(Format):
    """Weights, vocabulary, and the tokenizer as transformers loads it."""

    name: ClassVar[str] = "ctranslate2"
    extra: ClassVar[str] = "ctranslate2"
    packages: ClassVar[tuple[str, ...]] = ("ctranslate2",)
    quantizations: ClassVar[tuple[str, ...]] = ("float32", "int8")

    def write(self, loaded: LoadedModel, folder: Path, quantization: str) -> None:
        """Save the model aside and convert it; a UserError where CTranslate2 has no converter for its kind."""
        from ctranslate2.converters import TransformersConverter

        with tempfile.TemporaryDirectory() as place:
            save_model(loaded.model, loaded.tokenizer, Path(place))
            try:
                TransformersConverter(place).convert(str(folder), quantization=quantization, force=True)
            except (ValueError, NotImplementedError) as error:
                raise UserError(f"CTranslate2 does not take this model: {error}") from error
        loaded.tokenizer.save_pretrained(folder)

    def reader(self, loaded: LoadedModel, folder: Path) -> tuple[str, Reader]:
        """CTranslate2 on the CPU."""
        import ctranslate2

        generator = ctranslate2.Generator(str(folder), device="cpu", intra_threads=torch.get_num_threads())

        def read(ids: Any) -> torch.Tensor:
            logits = generator.forward_batch([list(ids)], return_log_probs=False)
            return torch.from_numpy(np.array(logits)[0].astype(np.float32))

        return "ctranslate2", read
