"""Format onnx: a graph for ONNX Runtime, with the keys and values of past tokens as inputs and outputs."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from gptft.errors import UserError
from gptft.export.base import Format, Reader
from gptft.models.loading import LoadedModel

FILE = "model.onnx"
ONE_FILE = 1_500_000_000
"""Bytes of weights beyond which they lie in a file beside the graph: protobuf ends at 2 GiB."""


class _Graph(torch.nn.Module):
    """A model whose cache goes in and comes out as tensors; a classifier has none."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor | None = None, past: Any = None
    ) -> Any:
        from transformers import DynamicCache

        inputs: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask}
        if past is None:
            return self.model(**inputs, use_cache=False).logits
        cache: Any = DynamicCache([tuple(layer) for layer in past])
        outputs = self.model(**inputs, position_ids=position_ids, past_key_values=cache, use_cache=True)
        return outputs.logits, [values for layer in cache.layers for values in (layer.keys, layer.values)]


class Onnx(Format):
    """Inputs and outputs have the names of optimum's exports.

    A language model: `input_ids` and `position_ids` (batch, length), `attention_mask` (batch, past + length), and for
    each layer `past_key_values.N.key` and `.value` (batch, heads, past, width); it gives `logits` (batch, length,
    vocabulary) and `present.N.key` and `.value`. A classifier: `input_ids` and `attention_mask`; it gives `logits`
    (batch, classes).
    """

    name: ClassVar[str] = "onnx"
    extra: ClassVar[str] = "onnx"
    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnxscript", "onnxruntime")
    classifiers: ClassVar[bool] = True

    def write(self, loaded: LoadedModel, folder: Path, quantization: str) -> None:
        """Trace the model with batch, length and past left open; a UserError where it keeps no cache."""
        model = loaded.model
        # Sizes that differ from each other and from 1, so that none is taken for another or for a constant.
        # Each is a tensor of its own: of two that are one, the exporter makes one input.
        ids, row = torch.ones((2, 3), dtype=torch.long), {0: "batch", 1: "length"}
        arguments, shapes = [ids, ids.clone()], [row, row]
        inputs, outputs = ["input_ids", "attention_mask"], ["logits"]
        if model.can_generate():
            past = _past(model, batch=2, length=4)
            arguments = [ids, torch.ones((2, 7), dtype=torch.long), ids.clone(), past]
            cached = [({0: "batch", 2: "past"},) * 2] * len(past)
            shapes = [row, {0: "batch", 1: "past + length"}, row, cached]
            layers = [f"{layer}.{kind}" for layer in range(len(past)) for kind in ("key", "value")]
            inputs += ["position_ids", *(f"past_key_values.{layer}" for layer in layers)]
            outputs += [f"present.{layer}" for layer in layers]
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                _Graph(model).eval(),
                tuple(arguments),
                dynamo=True,
                dynamic_shapes=tuple(shapes),
                input_names=inputs,
                output_names=outputs,
                verbose=False,
            )
        # The exporter notes with each node where in the source it comes from, paths of this machine included.
        for graph in (program.model.graph, *program.model.functions.values()):
            for node in graph.all_nodes():
                node.metadata_props.clear()
        size = sum(weight.numel() * weight.element_size() for weight in model.parameters())
        program.save(folder / FILE, external_data=size > ONE_FILE)
        model.config.save_pretrained(folder)
        if model.can_generate():
            model.generation_config.save_pretrained(folder)
        loaded.tokenizer.save_pretrained(folder)

    def reader(self, loaded: LoadedModel, folder: Path) -> tuple[str, Reader]:
        """ONNX Runtime on the CPU; a language model reads a text in two steps, so that its cache is used."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(folder / FILE, options, providers=["CPUExecutionProvider"])
        cached = [name for entry in session.get_inputs() if (name := entry.name).startswith("past")]

        def read(ids: Any) -> Tensor:
            whole, logits = torch.tensor([list(ids)]), []
            past = [values for layer in _past(loaded.model, 1, 0) for values in layer] if cached else []
            for start, stop in ((0, len(ids) // 2), (len(ids) // 2, len(ids))) if cached else ((0, len(ids)),):
                feed = {"input_ids": whole[:, start:stop], "attention_mask": torch.ones_like(whole[:, :stop])}
                if cached:
                    feed |= {"position_ids": torch.arange(start, stop)[None], **dict(zip(cached, past, strict=True))}
                found, *past = map(torch.from_numpy, session.run(None, {k: v.numpy() for k, v in feed.items()}))
                logits.append(found.flatten(end_dim=-2))
            return torch.cat(logits)

        return "onnxruntime", read


@torch.no_grad()
def _past(model: Any, batch: int, length: int) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of `length` tokens for each layer, in the model's own shapes; zeros."""
    outputs = model(input_ids=torch.ones((1, 1), dtype=torch.long), use_cache=True)
    if not hasattr(outputs, "past_key_values"):
        raise UserError(f"--to onnx: {type(model).__name__} keeps no keys and values of past tokens to decode with.")

    def empty(values: Tensor) -> Tensor:
        return values.new_zeros((batch, values.shape[1], length, values.shape[3]))

    return [(empty(layer.keys), empty(layer.values)) for layer in outputs.past_key_values.layers]
