"""Facts of a run for its manifest: versions, hardware, memory."""

from __future__ import annotations

import math
import os
import platform
import re
import resource
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("gptft", "torch", "transformers", "datasets", "accelerate", "peft", "evaluate", "tokenizers", "sacrebleu")

WATTS_PER_CORE = 10
WATTS_PER_GPU = 400
"""Of a server at work; where nothing is measured, an assumption that is said beside the estimate."""


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that decide about results."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def hardware() -> dict[str, Any]:
    """What this machine computes with; nothing that names the machine or its user."""
    import torch

    facts: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu_cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        facts["gpus"] = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return facts


def peak_memory_bytes() -> dict[str, int]:
    """Peak memory of this process so far, and of its GPU where there is one."""
    import torch

    peaks = {"process": _peak_of_process()}
    if torch.cuda.is_available():
        peaks["gpu"] = torch.cuda.max_memory_allocated()
    return peaks


def _peak_of_process() -> int:
    # Not getrusage where there is better: on Linux a process begins with the peak of the one that started it.
    status = Path("/proc/self/status")
    if status.is_file():
        found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text(encoding="utf-8"))
        if found:
            return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def energy_estimate(manifest: dict[str, Any]) -> str:
    """What a training took in electricity, from its time and the power that its hardware is assumed to draw."""
    hardware = manifest.get("hardware", {})
    gpus, threads = len(hardware.get("gpus", [])), hardware.get("torch_threads", 1)
    watts = gpus * WATTS_PER_GPU if gpus else threads * WATTS_PER_CORE
    assumed = f"{WATTS_PER_GPU} W a GPU" if gpus else f"{WATTS_PER_CORE} W a core"
    return f"{watts * manifest.get('training_seconds', 0) / 3600:,.2g} Wh, at an assumed {assumed}"


def duration(seconds: float) -> str:
    """Write a time as people say it: 42 s, 3 min 20 s, 1 h 05 min."""
    whole = math.ceil(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
