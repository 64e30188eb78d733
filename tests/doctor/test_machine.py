import json
from collections import namedtuple
from importlib.metadata import PackageNotFoundError, requires
from importlib.metadata import version as installed
from types import SimpleNamespace

import pytest
import torch
from commands import in_process
from packaging.requirements import Requirement

from gptft.doctor import examine_machine, machine

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """A machine of which only what a test changes is odd; no network is asked."""
    monkeypatch.setattr("gptft.network.hub_problem", lambda *_: None)
    monkeypatch.setattr(machine, "_multiplications", lambda: 100e9)
    monkeypatch.setattr(machine, "_memory", lambda device: 16e9)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def found(subject: str) -> tuple[str, str]:
    [(status, text)] = [(one.status, one.text) for one in examine_machine() if one.subject == subject]
    return status, text


def test_the_tested_versions_are_those_of_constraints_for_all_that_is_needed():
    tested = machine.tested_versions()
    needed = [Requirement(text) for text in requires("gptft") or [] if "extra" not in text]
    assert [one.name for one in needed if tested.get(one.name, "0") not in one.specifier] == []


def test_constraints_go_into_the_wheel():
    from pathlib import Path

    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert '"constraints.txt" = "gptft/_constraints.txt"' in text


@pytest.mark.parametrize(
    ("package", "version", "status", "said"),
    [
        ("peft", "0.18.0", "note", "0.18.0; gptft is tested with "),
        ("transformers", "4.57.1", "problem", '4.57.1, but gptft needs <6,>=5.20: pip install "transformers'),
        ("datasets", None, "problem", 'is not installed: pip install "datasets'),
    ],
)
def test_a_package_of_another_version_is_told(monkeypatch, package, version, status, said):
    def version_of(name: str) -> str:
        if name == package and version is None:
            raise PackageNotFoundError(name)
        return version if name == package else installed(name)

    monkeypatch.setattr(machine, "version", version_of)
    assert found(package)[0] == status and found(package)[1].startswith(said)
    result = in_process("doctor", "--json")
    assert result.code == (status == "problem")
    assert {"status": status, "subject": package, "text": found(package)[1]} in json.loads(result.out)


def test_a_build_for_a_cpu_is_the_version_that_is_tested(monkeypatch):
    tested = machine.tested_versions()
    monkeypatch.setattr(machine, "version", lambda name: f"{tested[name]}+cpu")
    needed = [text for text in requires("gptft") or [] if "extra" not in text]
    assert found("packages") == (
        "ok",
        f"{len(needed)} of those that gptft needs have the version that it is tested with",
    )


@pytest.mark.parametrize(("python", "status"), [("3.9.1", "problem"), ("3.12.4", "ok"), ("3.99.0", "note")])
def test_pythons(monkeypatch, python, status):
    monkeypatch.setattr("platform.python_version", lambda: python)
    assert found("python")[0] == status


def test_what_fits_and_how_long_it_takes_on_a_cpu():
    assert found("train gpt2") == ("ok", "all weights: 4.9 GB; about 3.5 h for a million tokens")
    assert found("train gpt2-medium") == ("note", "all weights: 11.7 GB; slow: about 9.9 h for a million tokens")
    assert found("train gpt2-xl")[1].startswith("does not fit: 23.0 GB with an adapter")


def test_a_gpu_is_measured_by_its_memory_alone(monkeypatch):
    facts = SimpleNamespace(name="H100", total_memory=20e9, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: facts)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(machine, "_memory", lambda device: {"cuda": 20e9, "cpu": 8e9}[device])
    assert found("gpu") == ("ok", "H100, 20.0 GB, compute capability 9.0")
    assert found("precision") == ("ok", "bfloat16 on cuda, which has it in hardware")
    assert found("train gpt2-medium") == ("ok", "all weights: 11.7 GB")
    assert found("train gpt2-large") == ("note", "only with an adapter such as lora: 13.5 GB (all weights: 22.8)")


def test_a_container_has_less_memory_than_the_machine(monkeypatch, tmp_path):
    monkeypatch.undo()
    for text, expected in (("3000000000\n", 3e9), ("max\n", machine._memory("cpu"))):
        (tmp_path / "memory.max").write_text(text)
        monkeypatch.setattr(machine, "CONTAINER", tmp_path / "memory.max")
        assert machine._memory("cpu") == expected


def test_a_gpu_that_torch_does_not_see_is_told(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: name)
    assert found("gpu") == ("note", f"there is an NVIDIA driver, but torch {torch.__version__} does not see its GPU")


def test_a_hub_that_cannot_be_reached_is_told(monkeypatch):
    assert found("hub") == ("ok", "reachable")
    monkeypatch.setattr("gptft.network.hub_problem", lambda *_: "no answer within 5 seconds")
    assert found("hub")[0] == "note" and "(no answer within 5 seconds)" in found("hub")[1]


def test_a_token_is_never_shown(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecret")
    result = in_process("doctor")
    assert "present (not shown)" in result.message + result.out and "secret" not in result.out + result.err
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert found("token")[0] == "note"


def test_a_full_or_closed_disk_is_told(monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda place: Usage(0, 0, 2e9))
    assert found("disk")[0] == "note" and found("disk")[1].startswith("2.0 GB free")
    monkeypatch.setattr("os.access", lambda place, mode: False)
    assert found("disk of the cache")[0] == "problem"


@pytest.mark.parametrize(("fonts", "status"), [(["DejaVu Sans"], "note"), (["Noto Sans CJK SC"], "ok")])
def test_fonts_for_chinese(monkeypatch, fonts, status):
    monkeypatch.setattr("matplotlib.font_manager.get_font_names", lambda: fonts)
    assert found("fonts")[0] == status


def test_a_broken_torch_is_a_finding_and_no_end(monkeypatch):
    def broken(device: str) -> float:
        raise OSError("libtorch.so: cannot open shared object file")

    monkeypatch.setattr(machine, "_memory", broken)
    for subject in ("hardware", "models"):
        assert found(subject) == ("problem", "cannot be told: OSError: libtorch.so: cannot open shared object file")
    assert found("hub")[0] == "ok"
