"""Put a finished run of recipes/starter.yaml into gptft/starter: float16 safetensors, tokenizer, and a card of facts.

python benchmarks/embed_starter.py runs/starter-20261123-101500
"""

from __future__ import annotations

import argparse
import json
from datetime import date
from pathlib import Path

import torch

from gptft.files import folder_written_atomically
from gptft.models.bases import STARTER
from gptft.models.loading import load_model
from gptft.models.quiet import quiet_libraries
from gptft.models.templates import CHAT_TEMPLATE
from gptft.runs.folder import Run

CARD = """\
---
license: cc-by-sa-4.0
language: en
library_name: transformers
pipeline_tag: text-generation
tags: [gpt2, gptft]
---

# The gptft starter

A GPT-2 of {parameters:,} parameters that ships with gptft, so that every recipe runs without a network. It is small
and has read little: it writes plain English, knows the form of a dialogue, and little of the world. It is a place to
start fine-tuning from, not a model to ask questions of.

| | |
| --- | --- |
| shape | {layers} layers, width {width}, {heads} heads, {positions} positions |
| tokenizer | byte-level BPE of {vocabulary:,} tokens, `<|endoftext|>` its only special token |
| tokens seen | {tokens:,} in {steps:,} steps, in float32 on CPU ({hours:.1f} hours) |
| held-out loss | {loss:.3f} nats a token (perplexity {perplexity:.1f}), on {held_out:,} tokens: 1% of the rows |
| weights | float16 safetensors, {megabytes:.1f} MB |
| made | {today}, torch {torch_version}, transformers {transformers_version} |

## Data

Train splits only; nothing that gptft's scores are measured on.

| data | what | licence | source |
| --- | --- | --- | --- |
| SGD (part) | dialogues with an assistant, in gptft's chat template | CC BY-SA 4.0 | Schema-Guided Dialogue (Google) |
| news | posts of digital.gov and 18F | CC0, public domain | GSA/digitalgov.gov, 18F/18f.gsa.gov |
| PEPs | Python enhancement proposals | CC0 or public domain | python/peps |
| tinyshakespeare | plays | public domain | karpathy/char-rnn |

The weights are under CC BY-SA 4.0, the strictest of these; gptft itself is under Apache-2.0.

## How to reproduce

With these data sets in the folder that `GPTFT_DATA` names:

    gptft finetune recipes/starter.yaml
    python benchmarks/embed_starter.py runs/latest

Dialogues were trained in the chat template of `chat_template.jinja` (roles as words, every turn of the assistant closed
by `<|endoftext|>`), documents end with `<|endoftext|>` too.{note}

## Limits

English only, 512 positions. It repeats what its data holds, biases included, and states things that are not so.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--note", help="a sentence for the card, on what was not as the recipe says")
    arguments = parser.parse_args()
    run = Run(arguments.run.resolve())
    manifest = run.manifest
    log = [json.loads(line) for line in run.log_file.read_text(encoding="utf-8").splitlines()]
    loss = [line["eval_loss"] for line in log if "eval_loss" in line][-1]
    quiet_libraries()
    loaded = load_model(str(run.model))
    loaded.tokenizer.chat_template = CHAT_TEMPLATE
    model, config = loaded.model, loaded.model.config
    with folder_written_atomically(STARTER) as folder:
        model.to(torch.float16).save_pretrained(folder)
        loaded.tokenizer.save_pretrained(folder)
        card = CARD.format(
            parameters=model.num_parameters(),
            layers=config.n_layer,
            width=config.n_embd,
            heads=config.n_head,
            positions=config.n_positions,
            vocabulary=len(loaded.tokenizer),
            tokens=manifest["tokens_seen"],
            steps=manifest["steps"],
            hours=manifest["training_seconds"] / 3600,
            loss=loss,
            perplexity=torch.tensor(loss).exp().item(),
            held_out=manifest["examples"]["validation"]["supervised_tokens"],
            megabytes=(folder / "model.safetensors").stat().st_size / 1e6,
            note=f" {arguments.note}" if arguments.note else "",
            today=date.today().isoformat(),
            torch_version=manifest["versions"]["torch"],
            transformers_version=manifest["versions"]["transformers"],
        )
        (folder / "README.md").write_text(card, encoding="utf-8")
    print(f"{STARTER}: {sum(file.stat().st_size for file in STARTER.iterdir()) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
