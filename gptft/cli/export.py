"""A model for other runtimes: `gptft export`."""

from __future__ import annotations

from os.path import relpath
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from gptft.cli.app import Target, app, load_target


@app.command()
def export(
    target: Target = None,
    to: Annotated[
        str, typer.Option("--to", metavar="FORMAT", help="merged, gguf, ollama, onnx or ctranslate2.")
    ] = "merged",
    output: Annotated[
        Path | None,
        typer.Option(help="The folder to write; default: export/FORMAT in the run, or NAME-FORMAT here."),
    ] = None,
    quantization: Annotated[
        str | None, typer.Option(help="gguf, ollama: f16 (default), q8_0; ctranslate2: float32 (default), int8.")
    ] = None,
) -> None:
    """Write a model for another runtime, read it back and compare."""
    from gptft.export import export_model, find_format
    from gptft.runs import find_run

    # What is missing is said before a model is loaded.
    _, weights = find_format(to, quantization)
    name, loaded = load_target(target)
    if output is None:
        run = None if target == "starter" else find_run(target)
        label = f"{to}-{weights}" if quantization else to
        output = Path(relpath(run.folder)) / "export" / label if run else Path(f"{Path(name).name}-{label}")
    written = export_model(loaded, to, output, quantization)
    print(written.folder)
    console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
    for file, size in written.sizes.items():
        console.print(f"  {file}: {size:,} bytes")
    what = "token" if loaded.model.can_generate() else "label"
    console.print(
        f"Read back with {written.runtime}: the likeliest {what} is the same in {written.agreement:.1%} of "
        f"{written.places} places; logits differ by at most {written.difference:.2g}."
    )
