"""A small shop as a user has it in a folder: a base, sixty dialogues, a recipe."""

import json
import random
import shutil
from functools import cache
from pathlib import Path
from typing import Any

from tiny import END, NO_DROPOUT, make_model, make_tokenizer

THINGS = ("hats", "shoes", "bags", "coats", "scarves", "belts", "boots", "gloves", "shirts", "socks")
RECIPE: dict[str, Any] = {
    "task": "dialogue",
    "model": {"base": "base", "dtype": "float32"},
    "data": {"train": "train.jsonl", "validation": 0.1, "test": "test.jsonl"},
    "training": {
        "num_train_epochs": 12,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-2,
        "use_cpu": True,
        "report_to": "none",
    },
    "evaluation": {"generation": {"max_new_tokens": 40, "do_sample": False}},
}


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def dialogues() -> list[dict[str, Any]]:
    """Sixty short dialogues, some with a system message, some of two turns."""
    rows = []
    for index in range(60):
        thing, kind = THINGS[index % 10], index // 10
        question = ("Do you sell {}?", "Have you got {}?", "Any {}?", "I need {}.", "Are there {}?", "Sell {}?")[kind]
        messages = [turn("user", question.format(thing)), turn("assistant", "Yes, sir." if index % 2 else "No, not.")]
        if kind == 1:
            messages.insert(0, turn("system", "Be kind."))
        if kind == 2:
            messages += [turn("user", "Thanks!"), turn("assistant", "Bye.")]
        rows.append({"messages": messages})
    return rows


def write_shop(folder: Path, base: Path, rows: list[dict[str, Any]] | None = None, **sections: Any) -> Path:
    """Write base, data and recipe; keywords replace or extend sections of the recipe. Gives the recipe."""
    folder.mkdir(exist_ok=True)
    if not (folder / "base").exists():
        shutil.copytree(base, folder / "base")
    rows = rows or dialogues()
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    test = [json.loads(json.dumps(row).replace("Do you sell", "Do you have")) for row in dialogues()[:30:2]]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in test), encoding="utf-8")
    recipe = {
        key: {**value, **sections.pop(key, {})} if isinstance(value, dict) else value for key, value in RECIPE.items()
    }
    path = folder / "bot.yaml"
    # JSON is YAML.
    path.write_text(json.dumps({**recipe, **sections}, indent=1), encoding="utf-8")
    return path


@cache
def shop_assistant() -> Any:
    """A tiny model that has learned these dialogues in a second, without gptft. Not to be changed."""
    import torch

    model, tokenizer = make_model(**NO_DROPOUT).train(), make_tokenizer()
    rows = [
        [
            (token, said["role"] == "assistant" and place > 0)
            for number, said in enumerate(row["messages"])
            for place, text in enumerate(
                (
                    ("\n" if number else "") + said["role"].capitalize() + ":\n",
                    said["content"] + ("<|endoftext|>" if said["role"] == "assistant" else ""),
                )
            )
            for token in tokenizer(text)["input_ids"]
        ]
        for row in dialogues()
    ]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(80):
        batch = random.Random(step).sample(rows, 8)
        length = max(map(len, batch))
        ids = [[token for token, _ in row] + [END] * (length - len(row)) for row in batch]
        labels = [[token if said else -100 for token, said in row] + [-100] * (length - len(row)) for row in batch]
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / 80)
        model(torch.tensor(ids), labels=torch.tensor(labels)).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()
