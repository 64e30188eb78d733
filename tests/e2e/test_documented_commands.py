"""Every command of README.md and the tutorials runs, from top to bottom, in a folder of its own.

Trainings are two steps from the starter and few rows are scored; what cannot run here is named with the reason.
"""

from __future__ import annotations

import csv
import io
import re
import runpy
import shlex
import shutil
import sys
import webbrowser
from pathlib import Path

import pytest
from commands import in_process

import gptft

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("own_cache")]
ROOT = Path(__file__).parent.parent.parent
README = ROOT / "README.md"
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
PAGES = [README, *TUTORIALS]

REGISTRY = "asks a package registry"
FOR_EVER = "runs until it is stopped"
PARTS = re.compile(
    r"^ *```(?P<language>\w+)(?: title=\"(?P<file>[^\"]+)\")?\n(?P<fenced>.*?)^ *```$"
    r"|^(?P<indented>(?: {4,}\S[^\n]*\n+)+)"
    r"|`(?P<span>[^`]+)`",
    re.DOTALL | re.MULTILINE,
)
PROGRAMS = ("gptft ", "make ", "pip ", "python ", "hf ")
NOT_RUN = {
    "make quickstart": "installs; CI runs it, and its three commands are run here",
    "make test": "these are the tests",
    "make docs": "installs; tests/test_pages.py builds the site where mkdocs-material is installed",
    "pip install gptft": REGISTRY,
    "pip install -c constraints.txt .": REGISTRY,
    "pip install 'gptft[ui]'": REGISTRY,
    "pip install 'gptft[serve]'": REGISTRY,
    "gptft chat --web": f"{FOR_EVER}: tests/browser/test_chat_page.py",
    "gptft serve": f"{FOR_EVER}: tests/serving",
    "gptft chat me/my-model": "asks the Hub: tests/hub",
    "gptft finetune tickets.yaml --launch 4": "four processes: tests/training/test_processes.py",
    "gptft finetune tickets.yaml --resume": "of a training that was stopped: tests/e2e/test_interruptions.py",
    "python benchmarks/results.py": "takes hours",
    "gptft inspect": "the command's name",
    "gptft compare": "the command's name",
}
SHORTER = {
    "finetune": ["training.max_steps=2"],
    "sweep": ["training.max_steps=2", "sweep.ranges={training.weight_decay: [0.0, 0.1]}", "--trials", "1"],
    "eval": ["--max-rows", "4"],
    "push": ["--dry-run"],
    "selftest": ["causality"],
}
"""What is appended to a command, by its name."""


def parts(page: Path) -> list[tuple[str, str]]:
    """A page's commands, Python code and files in order: (`command`, `python` or the file's name, text)."""
    found: list[tuple[str, str]] = []
    for part in PARTS.finditer(page.read_text(encoding="utf-8")):
        text = part["fenced"] or part["indented"] or ""
        if part["file"]:
            found.append((part["file"], text))
        elif part["span"]:
            span = " ".join(part["span"].split())
            if span.startswith(PROGRAMS) and ("command", span) not in found:
                found.append(("command", span))
        elif re.match(r"    (import|from) ", text):
            found.append(("python", re.sub("^    ", "", text, flags=re.MULTILINE)))
        else:
            lines = (re.sub(r"\s{2,}#.*", "", line).strip() for line in text.splitlines())
            found += [("command", line) for line in lines if line.startswith(PROGRAMS)]
    return found


def runs() -> list[str]:
    """The first and the last run of the recipe that was fine-tuned last."""
    latest = Path("runs/latest").resolve().name
    stem = re.sub(r"-\d{8}-\d{6}(-\d+)?$", "", latest)
    found = sorted(path.name for path in Path("runs").glob(f"{stem}-2*"))
    assert len(found) > 1
    return [found[0], found[-1]]


def run(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command of a page in the current folder, shortened."""
    program, *words = shlex.split(command)
    if program == "python":
        runpy.run_path(words[0])
        return
    assert program == "gptft", f"{command}: say why it does not run"
    words = ["tickets.yaml" if word == "RECIPE" else word for word in words]
    if "RUN_A" in words:
        names = dict(zip(("RUN_A", "RUN_B"), runs(), strict=True))
        words = [names.get(word, word) for word in words]
    words += SHORTER.get(words[0], [])
    if words[0] in ("finetune", "sweep") and "model.base=runs/latest" not in words:
        words.append("model.base=starter")
    monkeypatch.setattr(sys, "stdin", io.StringIO("Where is my parcel?\n"))
    done = in_process(*words)
    assert done.code == 0, f"{command}\n{done.out}\n{done.err}"


def write_tickets() -> None:
    """The CSV that the README's reader has: questions, answers, and for `gptft predict --file` texts."""
    with Path("tickets.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["question", "answer", "text"])
        for number in range(40):
            writer.writerow([f"Where is parcel {number}?", f"Parcel {number} is at door {number}.", f"parcel {number}"])


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> None:
    """A folder of its own, no browser, no tracker."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(webbrowser, "open", lambda address: address.startswith("file://"))
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")


def test_the_readme(monkeypatch):
    shutil.copytree(ROOT / "recipes", "recipes")
    write_tickets()
    text = README.read_text(encoding="utf-8")
    recipe = re.search(r"^( +)task: dialogue\n(?:\1.*\n)+", text, re.MULTILINE)
    Path("tickets.yaml").write_text(re.sub(f"^{recipe[1]}", "", recipe[0], flags=re.MULTILINE), encoding="utf-8")
    monkeypatch.setattr(gptft, "push", lambda run, repo_id, private: None)  # asks the Hub: tests/hub
    for kind, text in parts(README):
        if kind == "python":
            exec(
                text.replace('"training.seed=1"', '"training.seed=1", "training.max_steps=2", "model.base=starter"'), {}
            )
        elif text not in NOT_RUN:
            if "RUN_A" in text:
                assert in_process("eval", *runs(), "--max-rows", "4").code == 0
            run(text, monkeypatch)


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_a_tutorial(page, monkeypatch):
    for kind, text in parts(page):
        if kind not in ("command", "python"):
            Path(kind).write_text(text, encoding="utf-8")
        elif kind == "command" and text not in NOT_RUN:
            run(text, monkeypatch)


def test_what_does_not_run_is_on_a_page():
    written = {text for page in PAGES for kind, text in parts(page) if kind == "command"}
    assert len(written) > 40
    assert NOT_RUN.keys() - written == set()
