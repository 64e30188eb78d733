"""What a training takes, from what was measured and published: python benchmarks/scaling.py

A model of arithmetic alone: time is the floating point operations (6 a weight and token, and 12 a layer, width and
position that attends; Kaplan et al. 2020, Chowdhery et al. 2022) over what the hardware reaches. What it assumes stands
below, each with its source; docs/scaling.md has its tables and what it leaves out.
"""

from __future__ import annotations

import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "scaling.md"
BEGIN, END = "<!-- scaling: written by benchmarks/scaling.py -->", "<!-- end of scaling -->"
# Layers and width of GPT-2's four shapes (Radford et al. 2019); 1,024 positions, 50,257 tokens.
SHAPES = {"124M": (12, 768), "355M": (24, 1024), "774M": (36, 1280), "1.5B": (48, 1600)}
POSITIONS, VOCABULARY = 1024, 50257
# Dense bfloat16 peaks of NVIDIA's data sheets, and dollars an hour and GPU: a price of 2025, change it to yours.
A100, H100 = (312e12, 1.8), (989e12, 3.0)
# name: GPUs, (peak, price), share of the peak that is reached.
MACHINES = {
    "one A100": (1, A100, 0.45),
    "8 A100": (8, A100, 0.45),
    "8 H100": (8, H100, 0.40),
    "64 H100": (64, H100, 0.36),
}
"""Shares: llm.c reports 124M on 10 B tokens in 90 minutes of 8 A100 (discussion 481) and 1.5B on 33.6 B tokens in 24
hours of 8 H100 (discussion 677); what this arithmetic makes of these two stands under the table. Ours are set below,
and a tenth lower where machines talk over a network."""
CPU_TOKENS = 320
"""Tokens a second of 124M on two cores, rows of 1,024 tokens, all supervised (docs/performance.md)."""
PREPARED = 196_000
"""Tokens a second and core that are read, checked and encoded, here (12,647 SGD dialogues)."""


def parameters(layers: int, width: int) -> float:
    return 12 * layers * width**2 + (VOCABULARY + POSITIONS) * width


def flops_a_token(layers: int, width: int) -> float:
    """Of forward and backward; attention is causal, so that half the positions are seen."""
    return 6 * (12 * layers * width**2 + VOCABULARY * width) + 6 * layers * width * POSITIONS


def seconds(shape: str, tokens: float, machine: str) -> float:
    count, (peak, _), share = MACHINES[machine]
    return tokens * flops_a_token(*SHAPES[shape]) / (count * peak * share)


def duration(value: float) -> str:
    for unit, size in (("y", 31_557_600), ("d", 86_400), ("h", 3_600), ("min", 60)):
        if value >= size:
            return f"{value / size:,.3g} {unit}"
    return f"{value:.2g} s"


def tables() -> list[str]:
    lines = [
        "| model | weights, gradients, Adam: 16 bytes a parameter | checkpoint: 12 | operations a token |",
        "| --- " * 4 + "|",
    ]
    for name, shape in SHAPES.items():
        size = parameters(*shape)
        lines.append(
            f"| {name} | {size * 16 / 2**30:.1f} GiB | {size * 12 / 2**30:.1f} GiB | {flops_a_token(*shape):.2g} |"
        )
    head = ["model", "tokens", *(f"{name}" for name in MACHINES), "two CPU cores", "preparing on one core"]
    lines += ["", "| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    for name in SHAPES:
        for power in range(7, 13):
            cells = []
            for machine, (count, (_, price), _) in MACHINES.items():
                taken = seconds(name, 10.0**power, machine)
                cost = taken / 3600 * count * price
                cells.append(f"{duration(taken)}, ${cost:,.2g}" if cost < 100 else f"{duration(taken)}, ${cost:,.0f}")
            slower = flops_a_token(*SHAPES[name]) / flops_a_token(*SHAPES["124M"])
            cells += [duration(10.0**power * slower / CPU_TOKENS), duration(10.0**power / PREPARED)]
            lines.append(f"| {name} | 10^{power} | " + " | ".join(cells) + " |")
    reported = (("124M", 10e9, 8 * 312e12, 90 * 60), ("1.5B", 33.6e9, 8 * 989e12, 24 * 3600))
    shares = [flops_a_token(*SHAPES[name]) * tokens / peak / taken for name, tokens, peak, taken in reported]
    lines += ["", f"llm.c's two reports, by the same arithmetic: {shares[0]:.0%} and {shares[1]:.0%} of the peak."]
    return lines


def main() -> None:
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    PAGE.write_text(before + BEGIN + "\n" + "\n".join(tables()) + "\n" + END + rest.partition(END)[2], encoding="utf-8")
    print("\n".join(tables()))


if __name__ == "__main__":
    sys.exit(main())
