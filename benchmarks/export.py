"""Export a run of customer_service in every format and decode greedily there: python benchmarks/export.py RUN

Needs the extras `gguf`, `onnx` and `ctranslate2`, and llama-cpp-python; what is missing is left out and named. Prints a
table: bytes on disk, and for 20 test prompts how many answers, and how many of their tokens, are those of the run.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import gptft
from gptft.errors import UserError
from gptft.models.generation import generate_tokens, generation_settings
from gptft.models.quiet import quiet_libraries
from gptft.models.templates import render_prompt

ROWS = Path(__file__).parent.parent / "recipes" / "data" / "customer_service" / "test.jsonl"
PROMPTS = 20
EXPORTS = ("merged", "gguf f16", "gguf q8_0", "onnx float32", "ctranslate2 float32", "ctranslate2 int8")
Decoder = Callable[[list[int]], Iterator[int]]


def merged(folder: Path, _: Any) -> Decoder:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    return lambda ids: iter(model.generate(torch.tensor([ids]), do_sample=False)[0, len(ids) :].tolist())


def gguf(folder: Path, positions: int) -> Decoder:
    from llama_cpp import Llama

    llama = Llama(str(folder / "model.gguf"), n_ctx=positions, verbose=False)
    return lambda ids: llama.generate(ids, top_k=1, temp=0.0, repeat_penalty=1.0)


def onnx(folder: Path, _: Any) -> Decoder:
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "model.onnx")
    names = [entry.name for entry in session.get_inputs() if entry.name.startswith("past")]
    _, heads, _, width = session.get_inputs()[-1].shape

    def decode(ids: list[int]) -> Iterator[int]:
        past, seen, new = [np.zeros((1, heads, 0, width), np.float32) for _ in names], 0, ids
        while True:
            feed = {"input_ids": np.array([new]), "attention_mask": np.ones((1, seen + len(new)), np.int64)}
            feed["position_ids"] = np.arange(seen, seen + len(new))[None]
            logits, *past = session.run(None, feed | dict(zip(names, past, strict=True)))
            seen, new = seen + len(new), [int(logits[0, -1].argmax())]
            yield new[0]

    return decode


def ctranslate2(folder: Path, positions: int) -> Decoder:
    import ctranslate2
    from transformers import AutoTokenizer

    generator, tokenizer = ctranslate2.Generator(str(folder)), AutoTokenizer.from_pretrained(folder)

    def decode(ids: list[int]) -> Iterator[int]:
        tokens = tokenizer.convert_ids_to_tokens(ids)
        options: dict[str, Any] = {"max_length": positions - len(ids), "include_prompt_in_result": False}
        found = generator.generate_batch([tokens], sampling_topk=1, return_end_token=True, **options)
        return iter(found[0].sequences_ids[0])

    return decode


def main(run: str) -> None:
    quiet_libraries()
    loaded = gptft.load(run)
    rows = [json.loads(line)["messages"] for line in ROWS.read_text("utf-8").splitlines()[:PROMPTS]]
    prompts = [render_prompt(loaded.tokenizer, row[:-1]) for row in rows]
    settings = generation_settings(loaded.model, {"do_sample": False})
    answers, ends = generate_tokens(loaded.model, loaded.tokenizer, prompts, settings)
    total = sum(map(len, answers))
    print(f"{PROMPTS} prompts, {total} tokens\n\n| export | MB | same answers | same tokens | logits differ by |")
    print("| --- | --- | --- | --- | --- |")
    for name in EXPORTS:
        to, _, quantization = name.partition(" ")
        if to == "gguf" and find_spec("llama_cpp") is None:
            print(f"| {name} | left out: llama-cpp-python is not installed | | | |")
            continue
        with tempfile.TemporaryDirectory() as place:
            try:
                export = gptft.export_model(loaded, to, Path(place) / "export", quantization or None)
            except UserError as error:
                print(f"| {name} | left out: {error} | | | |")
                continue
            decode = globals()[to](export.folder, loaded.positions)
            same, equal = 0, 0
            for prompt, answer in zip(prompts, answers, strict=True):
                found: list[int] = []
                for token in decode(prompt):
                    found.append(token)
                    if token in ends or len(found) == settings.max_new_tokens:
                        break
                same += found == answer
                equal += sum(mine == theirs for mine, theirs in zip(found, answer, strict=False))
            size, difference = sum(export.sizes.values()) / 1e6, export.difference
            print(f"| {name} | {size:.1f} | {same}/{PROMPTS} | {equal}/{total} | {difference:.1g} |", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
