from __future__ import annotations

import json
import re

import pytest
from transformers import GenerationConfig

from gptft.errors import UserError
from gptft.export import export_model
from gptft.export.ollama import go_template
from gptft.models.classes import SETTINGS

ROLES = ("user", "assistant")
CONVERSATIONS = [("user",), ("system", "user"), ("user", "assistant") * 3 + ("user",), ("system", *ROLES, "user")]


def execute(template: str, messages: list[dict[str, str]]) -> str:
    """What Go's text/template gives, for the few actions that are used."""
    actions = re.findall(r"\{\{ (.*?) \}\}", template)
    assert "".join(f"{{{{ {action} }}}}" for action in actions) == template
    loop, end = actions.index("range $index, $turn := .Messages"), len(actions) - 2
    assert loop == 0 and actions[end] == "end"

    def run(index: int, turn: dict[str, str]) -> str:
        said, taken, live = "", [], [True]
        for action in actions[1:end]:
            word, _, condition = action.removeprefix("else ").partition(" ")
            holds = bool(index) if condition == "$index" else condition == f"eq $turn.Role {json.dumps(turn['role'])}"
            if action == "end":
                taken.pop()
                live.pop()
            elif action.startswith("else"):
                live[-1] = all(live[:-1]) and not taken[-1] and (action == "else" or holds)
                taken[-1] |= live[-1]
            elif word == "if":
                taken.append(holds)
                live.append(all(live) and holds)
            elif all(live):
                said += turn["content"] if action == "$turn.Content" else json.loads(action)
        return said

    return "".join(run(index, turn) for index, turn in enumerate(messages)) + json.loads(actions[-1])


def conversation(roles: tuple[str, ...]) -> list[dict[str, str]]:
    return [{"role": role, "content": f'{number} "{role}" said'} for number, role in enumerate(roles)]


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DEFAULT_SYSTEM = "{% if messages[0].role != 'system' %}<|im_start|>system\nBe \\ kind.<|im_end|>\n{% endif %}" + CHATML
IN_THE_QUESTION = (
    "{% set s = messages[0].content if messages[0].role == 'system' else '' %}{% for m in messages %}"
    "{% if m.role == 'user' %}[INST]{{ s + ' ' if loop.index0 == 1 and s else '' }}{{ m.content }}[/INST]"
    "{% elif m.role == 'assistant' %}{{ m.content }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize("template", [None, CHATML, DEFAULT_SYSTEM])
@pytest.mark.parametrize("roles", CONVERSATIONS)
def test_a_conversation_is_the_text_of_training(speaker, template, roles):
    speaker.tokenizer.chat_template = template or speaker.tokenizer.chat_template
    messages = conversation(roles)
    expected = speaker.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert execute(go_template(speaker.tokenizer), messages) == expected


def test_a_template_that_does_more_is_refused(speaker):
    speaker.tokenizer.chat_template = IN_THE_QUESTION
    with pytest.raises(UserError, match="--to ollama: the chat template of this model does more than"):
        go_template(speaker.tokenizer)


def parameters(folder) -> list[list[str]]:
    lines = (folder / "Modelfile").read_text().splitlines()
    assert lines[0] == "FROM ./model.gguf" and lines[1].startswith('TEMPLATE """{{ ')
    return [line.split(" ", 2)[1:] for line in lines[2:]]


def test_the_modelfile_has_the_models_own_settings(speaker, tmp_path):
    pytest.importorskip("gguf", reason="gguf is not installed: pip install 'gptft[gguf]'")
    speaker.model.generation_config = GenerationConfig(do_sample=False, max_new_tokens=40, stop_strings=["User:"])
    export = export_model(speaker, "ollama", tmp_path / "greedy")
    assert list(export.sizes) == ["Modelfile", "model.gguf"]
    assert parameters(tmp_path / "greedy") == [
        ["temperature", "0"],
        ["top_k", "50"],
        ["top_p", "1.0"],
        ["min_p", "0.0"],
        ["repeat_penalty", "1.0"],
        ["num_predict", "40"],
        ["num_ctx", "128"],
        ["stop", '"""<|endoftext|>"""'],
        ["stop", '"""User:"""'],
    ]
    speaker.model.generation_config = GenerationConfig(
        do_sample=True, temperature=0.7, top_k=5, top_p=0.9, repetition_penalty=1.2
    )
    setattr(speaker.model.config, SETTINGS, {"task": "completion"})
    export_model(speaker, "ollama", tmp_path / "sampled")
    sampled = dict(parameters(tmp_path / "sampled"))
    assert [sampled[name] for name in ("temperature", "top_k", "top_p", "repeat_penalty")] == ["0.7", "5", "0.9", "1.2"]
    # A completion is no conversation: its prompt is what the user types.
    assert 'TEMPLATE """{{ .Prompt }}"""' in (tmp_path / "sampled" / "Modelfile").read_text()
