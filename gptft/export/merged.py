"""Format merged: one folder of plain transformers files, an adapter merged into the weights."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch

from gptft.errors import GptftError
from gptft.export.base import Format, Reader
from gptft.models.adapters import shared_embeddings
from gptft.models.loading import LoadedModel, save_model
from gptft.models.logits import text_logits


class Merged(Format):
    """safetensors, configuration, generation settings, tokenizer and chat template."""

    name: ClassVar[str] = "merged"
    classifiers: ClassVar[bool] = True

    def write(self, loaded: LoadedModel, folder: Path, quantization: str) -> None:
        """Save the model; tied embeddings are one tensor in the file."""
        save_model(loaded.model, loaded.tokenizer, folder)

    def reader(self, loaded: LoadedModel, folder: Path) -> tuple[str, Reader]:
        """Plain transformers; raises a GptftError if embeddings that were tied are not."""
        from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

        kind = AutoModelForCausalLM if loaded.model.can_generate() else AutoModelForSequenceClassification
        model = kind.from_pretrained(folder, dtype=torch.float32, use_safetensors=True).eval()
        if (shared_embeddings(loaded.model) is None) != (shared_embeddings(model) is None):
            raise GptftError("Head and embeddings are one weight only before, or only after the export is loaded.")
        return "transformers", lambda ids: text_logits(model, ids)
