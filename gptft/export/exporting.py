"""Write a model in a format, read it back, compare it with the model, and only then let it appear."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from gptft.errors import GptftError, UserError
from gptft.export.base import Format
from gptft.export.ctranslate2 import CTranslate2
from gptft.export.gguf import Gguf
from gptft.export.merged import Merged
from gptft.export.ollama import Ollama
from gptft.export.onnx import Onnx
from gptft.files import folder_written_atomically
from gptft.models.generation import generate_tokens
from gptft.models.loading import LoadedModel
from gptft.models.logits import text_logits

FORMATS: dict[str, Format] = {kind.name: kind() for kind in (Merged, Gguf, Ollama, Onnx, CTranslate2)}
TEXTS = (
    "User:\nWhere is my parcel?{eos}\nAssistant:\n",
    "Add 12 to 3456,\n   then   it's 3,468!",
    "Zürich, 東京 🙂 — ok",
)
"""What an export is compared on: a special token, digits, spaces, contractions, letters of several scripts."""
ANSWER = 24
"""Tokens that the model goes on with after each of these texts, compared too."""
LARGEST_DEVIATION = 0.1
"""Root mean square of what logits may differ by, as a share of their standard deviation. Weights in eight bits leave
about a fiftieth; a setting or a layer that the runtime takes for another, about one."""


@dataclass(frozen=True)
class Export:
    """What was written, and how it compares with the model when read back."""

    folder: Path
    sizes: dict[str, int]
    """File -> bytes."""
    runtime: str
    """What read it."""
    places: int
    """How many predictions were compared."""
    agreement: float
    """Share of them whose likeliest token (or label) is the same."""
    difference: float
    """Largest absolute difference of two logits."""


def find_format(name: str, quantization: str | None = None) -> tuple[Format, str]:
    """A format by name, able to run here, and the quantization to use.

    Raises:
        UserError: there is no such format or quantization, or a package is missing.
    """
    if name not in FORMATS:
        raise UserError(f"--to {name}: there is no such format; expected one of {', '.join(FORMATS)}.")
    kind = FORMATS[name]
    if quantization and quantization not in kind.quantizations:
        raise UserError(f"--quantization {quantization}: {name} takes {' or '.join(kind.quantizations)}.")
    kind.check_packages()
    return kind, quantization or kind.quantizations[0]


def export_model(loaded: LoadedModel, to: str, output: Path | str, quantization: str | None = None) -> Export:
    """Write a model for another runtime.

    Args:
        loaded: the model with its tokenizer (`gptft.load`); it is moved to the CPU.
        to: a name in `FORMATS`.
        output: the folder to write, which must not exist yet; it appears once the export is complete and compared.
        quantization: one of the format's; its first when left out.

    Raises:
        UserError: the format does not exist, lacks a package, or does not take this model; `output` exists.
        GptftError: what was read back is not the model; nothing is then left.
    """
    kind, quantization = find_format(to, quantization)
    kind.check_model(loaded)
    output, model = Path(output), loaded.model.cpu().eval()
    if output.exists():
        raise UserError(f"{output} exists already: delete it, or name another folder with --output.")
    with folder_written_atomically(output) as folder:
        kind.write(loaded, folder, quantization)
        package, read = kind.reader(loaded, folder)
        rows = _rows(loaded)
        expected = torch.cat([text_logits(model, row) for row in rows])
        found = torch.cat([read(row) for row in rows])
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        export = Export(
            output,
            {str(path.relative_to(folder)): path.stat().st_size for path in files},
            f"{package} {version(package)}",
            len(expected),
            (expected.argmax(-1) == found.argmax(-1)).float().mean().item(),
            (expected - found).abs().max().item(),
        )
        deviation, spread = (expected - found).square().mean().sqrt(), expected.std(correction=0)
        if not deviation <= LARGEST_DEVIATION * spread + 1e-4:
            raise GptftError(
                f"Read back with {export.runtime}, the export is not the model, and is not kept: the likeliest token "
                f"is the same in {export.agreement:.0%} of {export.places} places, logits differ by up to "
                f"{export.difference:.2g}."
            )
    return export


def _rows(loaded: LoadedModel) -> list[list[int]]:
    """`TEXTS` as token ids, each with the greedy answer of a language model."""
    from transformers import GenerationConfig

    texts = [text.format(eos=loaded.tokenizer.eos_token) for text in TEXTS]
    rows = loaded.tokenizer(texts, add_special_tokens=False)["input_ids"]
    rows = [row[: loaded.positions - ANSWER] for row in rows]
    if not loaded.model.can_generate():
        return rows
    settings = GenerationConfig(max_new_tokens=ANSWER, do_sample=False)
    answers, _ = generate_tokens(loaded.model, loaded.tokenizer, rows, settings)
    return [row + answer for row, answer in zip(rows, answers, strict=True)]
