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
        metric = gptft.metrics.load_metric(name, trust_remote=True)
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
    names = [*BUILT_IN, "meteor", "evaluate-metric/bleu", "evaluate-metric/meteor", "user/mine"]
    for name in names:
        folder = tmp_path / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{folder.name}.py").write_text("raise SystemExit('code of the working directory was run')")
    found = run_offline(tmp_path, names)
    for name in BUILT_IN:
        assert found[name] == [BUILT_IN[name].path.partition(":")[0], name]
    assert found["evaluate-metric/bleu"] == ["gptft.metrics.text", "bleu"]
    for name in ("meteor", "evaluate-metric/meteor", "user/mine"):
        kind, message = found[name]
        assert kind == "GptftError"
        assert f"'{name}' is not built in" in message
        assert "Hub cannot be reached" in message


def test_hf_hub_offline_is_honoured(tmp_path):
    # An address that never answers: only a process that tries no connection ends in time.
    found = run_offline(tmp_path, ["meteor"], HF_HUB_OFFLINE="1", HF_ENDPOINT="http://192.0.2.1")
    assert found["meteor"][0] == "GptftError"
    assert "HF_HUB_OFFLINE" in found["meteor"][1]


def test_code_from_the_hub_is_announced(tmp_path, monkeypatch, capsys):
    script = tmp_path / "same_length.py"
    script.write_text(SCRIPT.format(name="SameLength"))
    load_metric(str(script))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("gptft.metrics._download", lambda name: script)
    load_metric("user/same_length", trust_remote=True)
    assert "running the code of metric user/same_length from the Hub" in capsys.readouterr().err


def test_code_from_the_hub_is_not_run_without_a_word_of_trust(monkeypatch):
    monkeypatch.setattr("gptft.metrics._download", lambda name: pytest.fail("the Hub was asked"))
    with pytest.raises(UserError, match=r"'evaluate-metric/meteor'.*with your rights.*--trust-remote-metric"):
        load_metric("meteor")
    with pytest.raises(UserError, match=r"not built in\. Did you mean 'bleu'\?.*'evaluate-metric/blue'"):
        load_metric("blue")


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
        load_metric("exact match", trust_remote=True)


ANSWERS = {
    "predictions": ["the cat sat on the mat", "no"],
    "references": [["the cat sat on the mat"], ["yes", "no"]],
    "stopped": [True, False],
}
INPUTS = {
    "answers": ANSWERS,
    "labels": {"predictions": ["x", "y"], "references": ["x", "x"]},
    "confidences": {"confidences": [0.5, 1.0], "correct": [True, True]},
    "numbers": {"predictions": [1.0, 2.0], "references": [3.0, 5.0]},
    "likelihoods": {"negative_log_likelihoods": [0.0, 0.0], "token_counts": [6, 1], "byte_counts": [22, 2]},
    "ranks": {"ranks": [1, 0]},
}
EXPECTED = {
    **dict.fromkeys(("bleu", "chrf"), 100.0),
    **dict.fromkeys(("rouge1", "rougeL", "rougeLsum", "exact_match", "token_f1", "distinct_n"), 1.0),
    **{"ter": 0.0, "rouge2": 0.5, "stop_rate": 0.5, "hit_at_k": 0.5, "mrr": 0.5},
    **{"accuracy": 0.5, "f1": 1 / 3, "precision": 0.5, "recall": 0.25, "mcc": 0.0, "calibration_error": 0.25},
    **{"mae": 2.5, "mse": 6.5, "pearsonr": 1.0, "perplexity": 1.0, "bits_per_byte": 0.0},
}


@pytest.mark.parametrize("name", BUILT_IN)
def test_each_built_in_computes(name):
    needed = INPUTS[BUILT_IN[name].needs]
    metric = load_metric(name)
    inputs = {key: needed[key] for key in metric.inputs[0]}
    assert metric.compute(**inputs)[name] == pytest.approx(EXPECTED[name])
    assert metric.definition(*inputs.values())


def test_metrics_combine_and_take_batches():
    names = [name for name in BUILT_IN if BUILT_IN[name].needs not in ("labels", "numbers")]
    combined = evaluate.combine([load_metric(name, keep_in_memory=True) for name in names])
    for _ in range(2):
        combined.add_batch(
            **{
                key: rows
                for needs in INPUTS
                if needs not in ("labels", "numbers")
                for key, rows in INPUTS[needs].items()
            }
        )
    found = combined.compute()
    # The second batch repeats the n-grams of the first.
    assert {name: found[name] for name in names} == {**{name: EXPECTED[name] for name in names}, "distinct_n": 0.5}
    assert found["bleu_signature"].startswith("nrefs:var|case:mixed")


def test_rouge_is_four_metrics_and_keeps_the_options():
    found = load_metric("rouge:tokenize=zh").compute(predictions=["我们走吧"], references=["我们走了"])
    assert found == {"rouge1": 0.75, "rouge2": pytest.approx(2 / 3), "rougeL": 0.75, "rougeLsum": 0.75}


def test_options_after_the_name_are_the_defaults_of_all_methods(tmp_path):
    metric = load_metric("evaluate-metric/bleu:tokenize=char, lowercase=true")
    predictions, references = ["The cat"], ["the cat"]
    found = metric.compute(predictions=predictions, references=references)
    assert found["bleu"] == 100.0
    assert "case:lc|eff:no|tok:char" in found["signature"] == metric.definition(predictions, references)
    assert metric.row_statistics(predictions, references)[0, 0] == 6
    assert metric.row_statistics(predictions, references, tokenize="13a")[0, 0] == 2
    script = tmp_path / "scaled.py"
    body = SCRIPT.format(name="Scaled").replace("references):", "references, scale=1):").replace("sum(", "scale * sum(")
    script.write_text(body)
    assert load_metric(f"{script}:scale=10").compute(predictions=["a"], references=["b"]) == {"same_length": 10.0}


def test_metrics_combine_in_one_call_and_take_strings():
    combined = evaluate.combine([load_metric("bleu"), load_metric("exact_match")])
    found = combined.compute(predictions=["a b c d", "x"], references=["a b c d", "x"])
    assert (found["bleu"], found["exact_match"]) == (100.0, 1.0)


def test_names_are_known_before_anything_heavy_is_imported():
    code = "import sys, gptft.metrics.catalogue as c; c.expand(['rouge', 'bleu:tokenize=zh']); print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "datasets", "evaluate", "sacrebleu", "huggingface_hub", "numpy", "sklearn", "nltk"}
    assert not heavy & set(result.stdout.split())
