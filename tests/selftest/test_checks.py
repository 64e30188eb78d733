"""Each check sees what it is there for: the code is broken on purpose, one fault at a time."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import in_process
from torch.nn import functional

from gptft.models import decoding, generation, logits
from gptft.models.quiet import quiet_libraries
from gptft.selftest import CHECKS, run_checks
from gptft.selftest.bench import Bench, CheckError, difference, expect
from gptft.selftest.checks import Check, Result, results_table, run_check
from gptft.tasks import completion, dialogue, pretraining
from gptft.training import batching, losses, objectives
from gptft.training.trainer import FineTuner

KNOWN = {check.name: check for check in CHECKS}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A bench whose base is trained before anything is broken."""
    quiet_libraries()
    made = Bench(tmp_path_factory.mktemp("bench"))
    assert made.base.manifest["state"] == "finished"
    return made


def batch_changed(change: Any) -> Any:
    """The language collator, with `change` done to its batches."""
    original = batching.Collator.__call__

    def collate(self: Any, rows: Any) -> Any:
        batch = original(self, rows)
        change(batch, self.pad_token_id)
        return batch

    return batching.Collator, "__call__", collate


def labels_masked_by_id() -> Any:
    return batch_changed(lambda batch, pad: batch["labels"].masked_fill_(batch["labels"] == pad, -100))


def padding_supervised() -> Any:
    return batch_changed(lambda batch, pad: batch["labels"][:, 1:].masked_fill_(batch["input_ids"][:, 1:] == pad, pad))


def positions_dropped() -> Any:
    return batch_changed(lambda batch, pad: batch.pop("position_ids", None))


def padded_left() -> Any:
    def padded(rows: Any, length: int, value: int) -> Any:
        return torch.tensor([[*[value] * (length - len(row)), *row] for row in rows])

    return batching, "_padded", padded


def mean_of_means() -> Any:
    def compute_loss(self: Any, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None):
        inputs.pop("token_count")
        tokens = (inputs["labels"][:, 1:] != -100).sum()
        loss = self.objective.loss_sum(model, inputs, 0.0) / tokens
        return loss / self.args.gradient_accumulation_steps

    return FineTuner, "compute_loss", compute_loss


def divided_twice() -> Any:
    original = FineTuner.compute_loss

    def compute_loss(self: Any, *arguments: Any, **keywords: Any) -> Any:
        return original(self, *arguments, **keywords) / self.args.gradient_accumulation_steps

    return FineTuner, "compute_loss", compute_loss


def steps_grouped_by_batch() -> Any:
    original = batching.LengthGroupedBatches.__init__

    def initialise(self: Any, *arguments: Any, **keywords: Any) -> None:
        original(self, *arguments, **keywords)
        self.step_size = self.batch_size

    return batching.LengthGroupedBatches, "__init__", initialise


def validation_by_rows() -> Any:
    def evaluate(self: Any, model: Any, dataset: Any) -> Any:
        sums, counts = losses.dataset_losses(model, dataset, self.collate.pad_token_id)
        return {"loss": float((sums / counts).mean())}

    return objectives.LanguageObjective, "evaluate", evaluate


def reading_with(**changes: Any) -> Any:
    """`supervised_logits` that passes other arguments to the model."""
    original = logits.supervised_logits

    def read(model: Any, batch: Any) -> Any:
        return original(lambda **inputs: model(**{**inputs, **changes}), batch)

    return read


def not_shifted() -> Any:
    def read(model: Any, batch: Any) -> Any:
        read = batch["labels"] != -100
        inputs = {name: batch[name] for name in ("input_ids", "position_ids") if name in batch}
        return model(**inputs, use_cache=False, logits_to_keep=read).logits, batch["labels"][read], read

    return logits, "supervised_logits", read


def packed_with_a_cache() -> Any:
    return logits, "supervised_logits", reading_with(use_cache=True)


def packed_with_a_mask() -> Any:
    original = logits.supervised_logits

    def read(model: Any, batch: Any) -> Any:
        mask = torch.ones_like(batch["input_ids"])
        return original(lambda **inputs: model(**inputs, attention_mask=mask), batch)

    return logits, "supervised_logits", read


def positions_go_on() -> Any:
    original = pretraining.pack_rows

    def pack(documents: Any, max_length: int) -> Any:
        for row in original(documents, max_length):
            yield {**row, "position_ids": list(range(row["length"]))}

    return pretraining, "pack_rows", pack


def documents_without_end() -> Any:
    original = pretraining.document_ids
    return pretraining, "document_ids", lambda *arguments: original(*arguments)[:-1]


def attention_both_ways() -> Any:
    original = functional.scaled_dot_product_attention

    def attend(*arguments: Any, is_causal: bool = False, **keywords: Any) -> Any:
        return original(*arguments, is_causal=False, **keywords)

    return functional, "scaled_dot_product_attention", attend


def end_of_turn_unsupervised() -> Any:
    original = dialogue.render_conversation

    def render(tokenizer: Any, messages: Any) -> Any:
        ids, mask = original(tokenizer, messages)
        return ids, [said and token != tokenizer.eos_token_id for token, said in zip(ids, mask, strict=True)]

    return dialogue, "render_conversation", render


def everything_supervised() -> Any:
    original = dialogue.render_conversation

    def render(tokenizer: Any, messages: Any) -> Any:
        ids, _ = original(tokenizer, messages)
        return ids, [True] * len(ids)

    return dialogue, "render_conversation", render


def last_turn_only() -> Any:
    original = dialogue.render_conversation

    def render(tokenizer: Any, messages: Any) -> Any:
        ids, mask = original(tokenizer, messages)
        last = len(ids) - mask[::-1].index(False)
        return ids, [said and place >= last for place, said in enumerate(mask)]

    return dialogue, "render_conversation", render


def prompt_by_another_template() -> Any:
    original = dialogue.render_prompt
    return dialogue, "render_prompt", lambda tokenizer, messages: original(tokenizer, messages)[:-1]


def prompt_with_a_space() -> Any:
    original = completion.PromptEncoder.prompts
    return (
        completion.PromptEncoder,
        "prompts",
        lambda self, tokenizer, texts, limit: original(self, tokenizer, [f"{text} " for text in texts], limit),
    )


def nothing_of(method: str) -> Any:
    from transformers import Trainer

    return Trainer, method, lambda self, *arguments: None


def order_by_chance() -> Any:
    def batches(self: Any) -> Any:
        yield from (batch.tolist() for batch in torch.randperm(len(self.lengths)).split(self.batch_size))

    return batching.LengthGroupedBatches, "__iter__", batches


def always_in_float32() -> Any:
    return "gptft.training.arguments.resolve_dtype", lambda name: torch.float32


def saving_with(change: Any) -> Any:
    from gptft.models import loading

    original = loading.save_model

    def save(model: Any, tokenizer: Any, folder: Any) -> None:
        original(model, tokenizer, folder)
        change(model, folder)

    return loading, "save_model", save


def saved_in_half_precision() -> Any:
    import copy

    return saving_with(lambda model, folder: copy.deepcopy(model).bfloat16().save_pretrained(folder))


def saved_without_template() -> Any:
    return saving_with(lambda model, folder: (folder / "chat_template.jinja").unlink())


def saved_without_settings() -> Any:
    return saving_with(lambda model, folder: (folder / "generation_config.json").unlink(missing_ok=True))


def adapter_left_out() -> Any:
    from peft.tuners.tuners_utils import BaseTuner

    return BaseTuner, "merge_and_unload", BaseTuner.unload


def merged_twice() -> Any:
    from peft.tuners.lora.layer import Linear

    original = Linear.get_delta_weight
    return Linear, "get_delta_weight", lambda self, name: 2 * original(self, name)


def prompts_padded_right() -> Any:
    def padded(prompts: Any, pad: int, device: Any) -> Any:
        length = max(map(len, prompts))
        ids = torch.tensor([[*prompt, *[pad] * (length - len(prompt))] for prompt in prompts], device=device)
        mask = torch.tensor([[1] * len(prompt) + [0] * (length - len(prompt)) for prompt in prompts], device=device)
        return ids, mask

    return generation, "left_padded", padded


def neighbours_seen() -> Any:
    original = decoding.lay_out

    def lay_out(*arguments: Any) -> Any:
        step, turns = original(*arguments)
        step.visible[:, :, : step.columns.max()] = True
        return step, turns

    return decoding, "lay_out", lay_out


def positions_from_the_column() -> Any:
    original = decoding.lay_out

    def lay_out(*arguments: Any) -> Any:
        step, turns = original(*arguments)
        return step._replace(positions=step.columns % 160), turns

    return decoding, "lay_out", lay_out


FAULTS = [
    ("closing", labels_masked_by_id),
    ("loss", labels_masked_by_id),
    ("loss", padding_supervised),
    ("loss", not_shifted),
    ("loss", validation_by_rows),
    ("loss", divided_twice),
    ("loss", everything_supervised),
    ("accumulation", mean_of_means),
    ("accumulation", steps_grouped_by_batch),
    ("packing", positions_dropped),
    ("packing", packed_with_a_cache),
    ("packing", packed_with_a_mask),
    ("packing", positions_go_on),
    ("padding", padded_left),
    ("causality", attention_both_ways),
    ("closing", end_of_turn_unsupervised),
    ("closing", last_turn_only),
    ("closing", documents_without_end),
    ("prompt", everything_supervised),
    ("prompt", prompt_by_another_template),
    ("prompt", prompt_with_a_space),
    ("resume", lambda: nothing_of("_load_optimizer_and_scheduler")),
    ("resume", lambda: nothing_of("_load_rng_state")),
    ("resume", order_by_chance),
    ("bfloat16", always_in_float32),
    ("saved", saved_in_half_precision),
    ("saved", saved_without_template),
    ("saved", saved_without_settings),
    ("adapter", adapter_left_out),
    ("adapter", merged_twice),
    ("generation", prompts_padded_right),
    ("generation", neighbours_seen),
    ("generation", positions_from_the_column),
]


@pytest.mark.parametrize(("name", "fault"), FAULTS)
def test_a_fault_is_seen(bench, monkeypatch, name, fault):
    monkeypatch.setattr(*fault())
    monkeypatch.setattr("gptft.selftest.reading.supervised_logits", logits.supervised_logits)
    assert not run_check(KNOWN[name], bench).passed


@pytest.mark.parametrize("method", ["_load_optimizer_and_scheduler", "_load_rng_state", ""])
def test_losses_tell_a_wrong_resume_where_sums_have_no_order(bench, monkeypatch, method):
    monkeypatch.setattr("gptft.selftest.training.resume_bound", lambda: 1e-4)
    if method:
        monkeypatch.setattr(*nothing_of(method))
    result = run_check(replace(KNOWN["resume"], bound=1e-4), bench)
    assert result.passed == (not method)


def test_the_command_says_what_failed_and_ends_with_1(monkeypatch):
    passing = in_process("selftest", "closing", "--json")
    assert (passing.code, [found["difference"] for found in json.loads(passing.out)]) == (0, [0])
    monkeypatch.setattr(*labels_masked_by_id())
    failing = in_process("selftest", "closing", "prompt")
    assert failing.code == 1 and "Failed: closing. Do not trust" in failing.message
    assert "FAILED  closing" in failing.out and "ok" in failing.out
    wrong = in_process("selftest", "closed")
    assert wrong.code == 2 and "no check called closed; there are: loss, accumulation" in wrong.message


def test_an_unbroken_tree_passes():
    results = run_checks()
    assert [result.name for result in results] == list(KNOWN)
    assert {result.name: (result.difference, result.reason) for result in results if not result.passed} == {}


def test_every_check_has_a_fault_that_it_sees():
    assert {name for name, _ in FAULTS} == set(KNOWN)
    assert len({fault for _, fault in FAULTS}) >= 12


def test_the_page_has_every_check_and_its_bound():
    page = (Path(__file__).parents[2] / "docs" / "checks.md").read_text(encoding="utf-8")
    rows = {
        cells[1].strip("` "): float(cells[3])
        for line in page.splitlines()
        if len(cells := line.split("|")) == 6 and "`" in cells[1]
    }
    assert rows == {check.name: check.bound for check in CHECKS if check.name != "resume"} | {"resume": 0}
    assert f"in {len(FAULTS)} places" in page


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([1.0, 2.0], [1.0, 2.5], 0.5),
        ([1.0], [1.0, 2.0], math.inf),
        ([], [], math.inf),
        ([math.nan, 1.0], [math.nan, 1.0], math.inf),
        ({"a": torch.zeros(2)}, {"a": torch.tensor([0.0, -3.0])}, 3.0),
        (torch.zeros(2), torch.zeros(1, 2), math.inf),
        (torch.zeros(0), torch.zeros(0), math.inf),
    ],
)
def test_what_cannot_be_compared_is_infinitely_different(first, second, expected):
    assert difference(first, second) == expected


def test_what_cannot_be_measured_has_failed_and_says_why(tmp_path):
    def odd(bench: Any) -> float:
        raise ValueError("[odd]")

    bench = Bench(tmp_path)
    results = [run_check(Check("odd", "that all is even", 1.0, odd), bench)]
    results.append(run_check(Check("none", "that", 1.0, lambda _: expect(False, "there is nothing")), bench))  # type: ignore[arg-type]
    results.append(run_check(Check("nan", "that", 1.0, lambda _: math.nan), bench))
    assert [result.passed for result in results] == [False] * 3
    assert [result.reason for result in results] == ["ValueError: [odd]", "there is nothing", ""]
    assert Result("x", "y", math.inf, 1.0, False, 0.1).to_dict()["difference"] == "inf"
    assert results_table(results).row_count == 3
    with pytest.raises(CheckError, match="why"):
        expect(False, "why")
