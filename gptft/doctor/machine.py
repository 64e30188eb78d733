"""Versions, hardware and what it can train, the Hub, disk and fonts. Nothing is changed, and no token shown."""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from gptft.doctor.findings import Finding

MODELS = {
    "starter": (10_440_960, 4, 384),
    "gpt2": (124_439_808, 12, 768),
    "gpt2-medium": (354_823_168, 24, 1024),
    "gpt2-large": (774_030_080, 36, 1280),
    "gpt2-xl": (1_557_611_200, 48, 1600),
}
"""Parameters, layers and width."""
GIGABYTE = 10**9
CONTAINER = Path("/sys/fs/cgroup/memory.max")
SLOW_HOURS = 6
"""For a million tokens."""
LIBRARIES = 1.0 * GIGABYTE
"""Memory of Python, torch and transformers."""
BATCH_TOKENS = 2048
ACTIVATION_BYTES = 100
"""Memory for each token, layer and unit of width. Measured: 3.5 GB at most with 88 million weights, in 12 layers 768
wide, at 1,600 tokens a batch."""
USEFUL_SHARE = 0.6
"""What a training step makes use of, of the speed of matrix products, at six operations for each token and weight.
Measured: 0.55 to 0.75, with 10 and with 88 million weights."""


def examine_machine() -> list[Finding]:
    """All that can be told of this machine in a few seconds."""
    findings: list[Finding] = []
    for examine in (_python, _packages, _hardware, _models, _hub, _disk, _fonts):
        try:
            findings += examine()
        except (ImportError, OSError) as error:
            # A package that is missing or broken is told above, and the rest is still worth knowing.
            subject = examine.__name__.strip("_")
            findings.append(Finding("problem", subject, f"cannot be told: {type(error).__name__}: {error}"))
    return findings


def tested_versions() -> dict[str, str]:
    """Package -> the version that gptft is tested with on this Python, from constraints.txt, which is in the wheel."""
    package = Path(__file__).parent.parent
    installed = package / "_constraints.txt"
    file = installed if installed.is_file() else package.parent / "constraints.txt"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {pin.name: str(pin.specifier)[2:] for pin in pins if not pin.marker or pin.marker.evaluate()}


def _python() -> Iterator[Finding]:
    found, facts = platform.python_version(), metadata("gptft")
    needed = SpecifierSet(facts["Requires-Python"])
    tested = [name.rpartition(" ")[2] for name in facts.get_all("Classifier", []) if "Python :: 3." in name]
    if found not in needed:
        yield Finding("problem", "python", f"{found}, but gptft needs {needed}")
    elif found.rpartition(".")[0] not in tested:
        yield Finding("note", "python", f"{found}; tested with {', '.join(tested)}")
    else:
        yield Finding("ok", "python", f"{found} on {platform.system()} {platform.machine()}")


def _packages() -> Iterator[Finding]:
    tested, same = tested_versions(), 0
    for requirement in map(Requirement, requires("gptft") or []):
        name, allowed = requirement.name, requirement.specifier
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(name)
        except PackageNotFoundError:
            yield Finding("problem", name, f'is not installed: pip install "{requirement}"')
            continue
        if not allowed.contains(found, prereleases=True):
            yield Finding("problem", name, f'{found}, but gptft needs {allowed}: pip install "{requirement}"')
        elif name not in tested:
            yield Finding("note", name, f"{found}; which version it was tested with is not known here")
        # 2.13.0+cpu is 2.13.0 built for a CPU.
        elif Version(found).public != tested[name]:
            yield Finding("note", name, f"{found}; gptft is tested with {tested[name]}")
        else:
            same += 1
    yield Finding("ok", "packages", f"{same} of those that gptft needs have the version that it is tested with")


def _hardware() -> Iterator[Finding]:
    import torch

    from gptft.models.precision import best_device, resolve_dtype

    device, dtype = best_device(), str(resolve_dtype()).removeprefix("torch.")
    units = [name for name in ("avx2", "avx512_f", "avx512_bf16", "amx_bf16") if torch.cpu.get_capabilities().get(name)]
    cores = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {_memory('cpu') / GIGABYTE:.1f} GB of memory"
    yield Finding("ok", "cpu", f"{cores}; {', '.join(units) or platform.machine()}")
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        text = f"{facts.name}, {facts.total_memory / GIGABYTE:.1f} GB, compute capability {facts.major}.{facts.minor}"
        yield Finding("ok", "gpu", text)
    if device.type == "cpu" and shutil.which("nvidia-smi"):
        yield Finding("note", "gpu", f"there is an NVIDIA driver, but torch {torch.__version__} does not see its GPU")
    if dtype == "float32":
        yield Finding("note", "precision", f"float32: this {device.type} does not multiply bfloat16 fast")
    else:
        yield Finding("ok", "precision", f"{dtype} on {device.type}, which has it in hardware")


def _memory(device: str) -> float:
    """Bytes in all: of the first GPU, or of the machine, or of the part of it that a container may use."""
    import torch

    if device == "cuda":
        return torch.cuda.get_device_properties(0).total_memory
    limit = CONTAINER.read_text().strip() if CONTAINER.is_file() else ""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(whole, int(limit)) if limit.isdigit() else whole


def _models() -> Iterator[Finding]:
    """What fits into memory; on a CPU also how long it takes, from the speed of matrix products."""
    from gptft.models.precision import best_device

    device = best_device().type
    memory, speed = _memory(device), _multiplications() if device == "cpu" else None
    for name, (weights, layers, width) in MODELS.items():
        batch = LIBRARIES + ACTIVATION_BYTES * BATCH_TOKENS * layers * width
        # Weights, gradients and Adam's two moments in float32; an adapter adds little to the weights.
        whole, adapter = batch + 16 * weights, batch + 4 * weights
        hours = 6e6 * weights / (speed * USEFUL_SHARE) / 3600 if speed else 0.0
        took = f"; {'slow: ' * (hours > SLOW_HOURS)}about {hours:,.1f} h for a million tokens" if speed else ""
        if whole < memory:
            status, text = "note" if hours > SLOW_HOURS else "ok", f"all weights: {whole / GIGABYTE:.1f} GB{took}"
        elif adapter < memory:
            text = (
                f"only with an adapter such as lora: {adapter / GIGABYTE:.1f} GB (all weights: {whole / GIGABYTE:.1f})"
            )
            status, text = "note", text + took
        else:
            status, text = "note", f"does not fit: {adapter / GIGABYTE:.1f} GB with an adapter"
        yield Finding(status, f"train {name}", text)


def _multiplications(seconds: float = 0.3) -> float:
    """Operations a second of GPT-2's matrix products, in the precision that would be trained in."""
    import torch

    from gptft.models.precision import resolve_dtype

    rows, weight = (torch.randn(shape, dtype=resolve_dtype()) for shape in ((512, 768), (768, 3072)))
    torch.mm(rows, weight)
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        torch.mm(rows, weight)
        count += 1
    return count * 2 * 512 * 768 * 3072 / (time.perf_counter() - started)


def _hub() -> Iterator[Finding]:
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import HfHubHTTPError

    from gptft.network import hub_problem, mistake

    name = "openai-community/gpt2"
    try:
        problem = hub_problem(name, "model")
    except HfHubHTTPError as error:
        problem = mistake(error, name, "model", None)
    text = f"not reachable ({problem}): only what is in the cache or on this disk, and the starter" if problem else ""
    yield Finding("note" if problem else "ok", "hub", text or "reachable")
    known = bool(get_token())
    hint = "present (not shown)" if known else "none: private and gated models, and `gptft push`, need `hf auth login`"
    yield Finding("ok" if known else "note", "token", hint)
    cache = Path(constants.HF_HUB_CACHE)
    held = [len(list(cache.glob(f"{kind}--*"))) for kind in ("models", "datasets")]
    yield Finding("ok", "cache", f"{cache}: {held[0]} models, {held[1]} data sets")


def _disk() -> Iterator[Finding]:
    from datasets import config

    for subject, place in (("disk", Path.cwd()), ("disk of the cache", Path(config.HF_DATASETS_CACHE))):
        # The cache may not be there yet.
        existing = next(folder for folder in (place, *place.absolute().parents) if folder.exists())
        free = shutil.disk_usage(existing).free / GIGABYTE
        if not os.access(existing, os.W_OK):
            yield Finding("problem", subject, f"{existing} cannot be written to")
        elif free < 5:
            yield Finding("note", subject, f"{free:.1f} GB free; two checkpoints of gpt2 with Adam's moments take 3 GB")
        else:
            yield Finding("ok", subject, f"{free:,.1f} GB free")


def _fonts() -> Iterator[Finding]:
    from matplotlib import font_manager

    from gptft.evaluation.confusion import FONTS

    # The first of them has no Chinese characters.
    found = [font for font in FONTS[1:] if font in font_manager.get_font_names()]
    missing = f"none for Chinese: its characters are boxes in pictures. Install one of {', '.join(FONTS[1:])}"
    yield Finding("ok" if found else "note", "fonts", f"Chinese in pictures: {found[0]}" if found else missing)
