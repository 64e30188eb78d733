"""An inspection as tables, which the terminal and the page both show."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gptft.inspection.inspect import Inspection
from gptft.inspection.plan import size
from gptft.training.progress import duration

BINS = 16


@dataclass(frozen=True)
class Table:
    """A titled table of texts; the first column is to the left, others to the right."""

    title: str
    head: list[str]
    rows: list[list[str]]


def tables(found: Inspection) -> list[Table]:
    """All of it but findings and examples."""
    report, basics, plan, memory = found.report, found.basics, found.basics.plan, found.memory
    made = [Table("Sources", ["source", "columns", "rows", "kept"], [])]
    for name, split in report.splits.items():
        for source in split.sources:
            columns = ", ".join(found.columns.get(source["path"], [])) or "-"
            counts = [f"{source[key]:,}" for key in ("read", "kept")]
            made[0].rows.append([f"{name}: {source['path']}", columns, *counts])
    head = ["split", "read", "empty", "repeated", "kept", "weighted", "near", "control", "NFC"]
    cleaning = Table("Rows by cleaning step (near: kept, but nearly like an earlier row of train)", head, [])
    for name, split in report.splits.items():
        near = found.duplicates.counts[name]
        counts = (split.read, split.empties, split.duplicates, split.kept, split.weighted, near)
        repaired = (split.control_characters, split.unicode_nfc)
        cleaning.rows.append([name, *(f"{count:,}" for count in (*counts, *repaired))])
    made.append(cleaning)
    near_rows = [
        [f"{pair.similarity:.0%}", f"{pair.origin}: {pair.text}", f"{pair.other}: {pair.other_text}"]
        for pair in found.duplicates.examples
    ]
    made.append(Table("Near-duplicates", ["alike", "row", "row of train"], near_rows))
    labels = basics.scan.labels.most_common()
    ends = labels if len(labels) <= 12 else [*labels[:6], *labels[-6:]]
    counts = [[name, f"{count:,}", f"{count / max(basics.scan.rows, 1):.1%}"] for name, count in ends]
    words = f"Labels of train ({len(labels):,}" + ("; the most and the least frequent)" if len(labels) > 12 else ")")
    made.append(Table(words, ["label", "rows", "share"], counts))
    spoken = [
        [name, ", ".join(f"{language} {count / languages.counts.total():.1%}" for language, count in some)]
        for name, languages in found.languages.items()
        if (some := languages.counts.most_common(4))
    ]
    made.append(Table("Languages (of texts long enough to tell, in a sample)", ["split", "share"], spoken))
    head = ["split", "rows", "examples", "cut", "dropped", "median", "99%", "most", "learned", "ends trained"]
    lengths = Table("Lengths in tokens", head, [])
    for name, split in basics.lengths.items():
        done = split.preparation
        p50, p99, most = (int(np.percentile(split.lengths, part)) for part in (50, 99, 100))
        numbers = (done.rows, done.examples, done.shortened, done.dropped, p50, p99, most)
        # The labels of a classification are no tokens.
        ended = f"{split.ended:,} of {split.answers:,}" if split.answers else "-"
        supervised = f"{done.supervised_tokens / max(done.tokens, 1):.0%}" if split.answers else "-"
        lengths.rows.append([name, *(f"{number:,}" for number in numbers), supervised, ended])
    made.append(lengths)
    step = memory.step
    facts = {
        "parameters": f"{plan.parameters:,}, {plan.trained:,} of them trained",
        "steps": f"{plan.steps:,} ({plan.steps_per_epoch:,} an epoch, {plan.warmup_steps:,} of warm-up)",
        "tokens an epoch": f"{plan.tokens_per_epoch:,}; of what is computed, {plan.padding:.1%} is padding",
        "peak memory": f"{size(memory.total)} of {size(memory.machine)} that can be had",
        "  weights, gradients, optimizer": " + ".join(map(size, (step.weights, step.gradients, step.optimizer))),
        "  activations and logits": size(step.activations),
        "  process beside them": size(memory.process),
        "largest batch that fits": "any, it is learned in parts"
        if memory.largest_batch is None
        else f"{memory.largest_batch:,} rows of the longest kind",
        "disk": f"{size(plan.checkpoint_bytes)} of {size(plan.disk_free)} free",
        "time of the training steps": "not measured (--probe does)",
    }
    if found.probe:
        time = f"{duration(found.probe.seconds)}, {found.probe.tokens_per_second:,.0f} tokens/s (three steps measured)"
        facts["time of the training steps"] = time
    made.append(Table("The plan", ["what", "how much"], [list(pair) for pair in facts.items()]))
    return [table for table in made if table.rows]


def histogram(found: Inspection) -> list[tuple[str, int]]:
    """Examples of train by length: a range of tokens and how many."""
    counts, edges = np.histogram(found.basics.lengths["train"].lengths, bins=BINS)
    edges = np.ceil(edges).astype(int)
    return [(f"{low:,} to {high:,}", int(n)) for low, high, n in zip(edges[:-1], edges[1:], counts, strict=True)]


def about_prompts(found: Inspection) -> str:
    """What was checked of the prompts at inference."""
    count = found.basics.prompts_compared
    if not count:
        return "This task has no prompts."
    wrong = any(finding.name == "prompt_not_prefix" for finding in found.findings)
    return f"{count:,} prompts compared: " + (
        "some are not how their training rows begin." if wrong else "each is token for token how its row begins."
    )
