"""The project's own files agree with each other."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PYTHONS = ("3.10", "3.11", "3.12", "3.13")


def pins(python: str) -> dict[str, str]:
    """Name -> version of the pins that apply on a Python version."""
    found: dict[str, str] = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        pin = Requirement(line)
        if pin.marker is None or pin.marker.evaluate({"python_version": python}):
            assert pin.name not in found, f"two pins of {pin.name} on Python {python}"
            found[pin.name] = str(pin.specifier).removeprefix("==")
    return found


@pytest.mark.parametrize("python", PYTHONS)
def test_each_dependency_has_one_pin_that_fits(python):
    versions = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pins(python).items()}
    for text in importlib.metadata.requires("gptft") or []:
        dependency = Requirement(text)
        version = versions.get(re.sub(r"[-_.]+", "-", dependency.name).lower())
        assert version is not None, f"{dependency.name} has no pin: make constraints"
        assert version in dependency.specifier, f"{dependency.name}=={version} is outside {dependency.specifier}"


def test_constraints_bring_neither_places_nor_hardware():
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if re.search(r"://|@|^-|\+|^nvidia|^triton", line)] == []


def test_the_changelog_has_the_version():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[{re.escape(importlib.metadata.version('gptft'))}\]", changelog, re.MULTILINE)


def test_every_make_target_that_is_named_exists():
    made = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    files = [
        "CONTRIBUTING.md",
        "README.md",
        "constraints.txt",
        ".ci/run",
        *(".github/workflows/" + n for n in WORKFLOWS),
    ]
    named = {
        (file, target)
        for file in files
        for target in re.findall(r"(?:`|run: |step \w+ )make ([a-z]+)", (ROOT / file).read_text(encoding="utf-8"))
    }
    assert named and {(file, target) for file, target in named if target not in made} == set()


WORKFLOWS = ("ci.yml", "release.yml")


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflows_ask_for_no_more_rights_than_they_need(name):
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    extra = {job: part["permissions"] for job, part in workflow["jobs"].items() if "permissions" in part}
    assert extra == ({"publish": {"id-token": "write"}} if name == "release.yml" else {})
