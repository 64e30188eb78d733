import json
import os
import subprocess
import sys
from pathlib import Path

import evaluate
import pytest

from gptft.errors import UserError
from gptft.metrics import BUILT_IN, load_metric

SCRIPT = """
import datasets
import evaluate

class {name}(evaluate.Metric):
    def _info(self):
        text = datasets.Value("string")
        features = datasets.Features({{"predictions": text, "references": text}})
        return evaluate.MetricInfo(description="", citation="", features=features)

    def _compute(self, predictions, references):
        return {{"same_length": sum(len(p) == len(r) for p, r in zip(predictions, references)) / len(predictions)}}
"""


def run_offline(folder: Path, names: list[str], **environment: str) -> dict[str, list[str]]:
    """Load metrics in a process of its own whose Hub is a closed port; give class or error by name."""
    code = f"""
import json, gptft.metrics
found = {{}}
for name in {names!r}:
    try:
        metric = gptft.metrics.load_metric(name)
        found[name] = [type(metric).__module__, metric.name]
    except gptft.metrics.GptftError as error:
        found[name] = [type(error).__name__, str(error)]
print(json.dumps(found))
"""
    environment = {**os.environ, "HF_HOME": str(folder / "hf"), "HF_ENDPOINT": "http://127.0.0.1:9", **environment}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    command = [sys.executable, "-P", "-c", code] if sys.version_info >= (3, 11) else [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_folders_of_the_working_directory_are_never_run(tmp_path):
    names = [*BUILT_IN, "accuracy", "evaluate-metric/bleu", "evaluate-metric/accuracy", "user/mine"]
    for name in names:
        folder = tmp_path / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{folder.name}.py").write_text("raise SystemExit('code of the working directory was run')")
    found = run_offline(tmp_path, names)
    for name in BUILT_IN:
        assert found[name] == [BUILT_IN[name].partition(":")[0], name]
    assert found["evaluate-metric/bleu"] == ["gptft.metrics.text", "bleu"]
    for name in ("accuracy", "evaluate-metric/accuracy", "user/mine"):
        kind, message = found[name]
        assert kind == "GptftError"
        assert f"'{name}' is not built in" in message
        assert "Hub cannot be reached" in message


def test_hf_hub_offline_is_honoured(tmp_path):
    # An address that never answers: only a process that tries no connection ends in time.
    found = run_offline(tmp_path, ["accuracy"], HF_HUB_OFFLINE="1", HF_ENDPOINT="http://192.0.2.1")
    assert found["accuracy"][0] == "GptftError"
    assert "HF_HUB_OFFLINE" in found["accuracy"][1]


def test_code_from_the_hub_is_announced(tmp_path, monkeypatch, capsys):
    script = tmp_path / "same_length.py"
    script.write_text(SCRIPT.format(name="SameLength"))
    load_metric(str(script))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("gptft.metrics._download", lambda name: script)
    load_metric("user/same_length")
    assert "running the code of metric user/same_length from the Hub" in capsys.readouterr().err


def test_a_path_is_loaded_by_evaluate(tmp_path, monkeypatch):
    folder = tmp_path / "length_match"
    folder.mkdir()
    (folder / "length_match.py").write_text(SCRIPT.format(name="LengthMatch"))
    monkeypatch.chdir(tmp_path)
    for path in ("./length_match", "length_match/length_match.py", str(folder)):
        metric = load_metric(path)
        assert metric.compute(predictions=["ab", "c"], references=["xy", "zz"]) == {"same_length": 0.5}


def test_a_path_without_a_script_is_an_error(tmp_path):
    with pytest.raises(UserError, match="is not a file"):
        load_metric(str(tmp_path / "nothing"))


def test_a_name_that_the_hub_refuses_is_an_error_with_the_nearest_name():
    with pytest.raises(UserError, match="Did you mean 'exact_match'"):
        load_metric("exact match")


def test_metrics_combine_and_take_batches():
    metrics = [load_metric(name, keep_in_memory=True) for name in BUILT_IN]
    combined = evaluate.combine(metrics)
    for _ in range(2):
        combined.add_batch(
            predictions=["the cat sat on the mat", "no"],
            references=[["the cat sat on the mat"], ["yes", "no"]],
            stopped=[True, False],
            negative_log_likelihoods=[0.0, 0.0],
            token_counts=[6, 1],
        )
    found = combined.compute()
    assert {name: found[name] for name in BUILT_IN} == {
        "bleu": 100.0,
        "chrf": 100.0,
        "exact_match": 1.0,
        "stop_rate": 0.5,
        "perplexity": 1.0,
    }
    assert found["bleu_signature"].startswith("nrefs:var|case:mixed")


def test_metrics_combine_in_one_call_and_take_strings():
    combined = evaluate.combine([load_metric("bleu"), load_metric("exact_match")])
    found = combined.compute(predictions=["a b c d", "x"], references=["a b c d", "x"])
    assert (found["bleu"], found["exact_match"]) == (100.0, 1.0)


def test_names_are_known_before_anything_heavy_is_imported():
    code = "import sys, gptft.metrics, gptft.evaluation.scores as s; s.needs_generation('bleu'); print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "datasets", "evaluate", "sacrebleu", "huggingface_hub"} & set(result.stdout.split())
