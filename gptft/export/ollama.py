"""Format ollama: a GGUF with a Modelfile beside it, for `ollama create NAME -f Modelfile`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from gptft.errors import UserError
from gptft.export.gguf import FILE, Gguf
from gptft.files import write_text_atomically
from gptft.models.classes import SETTINGS
from gptft.models.generation import generation_settings
from gptft.models.loading import LoadedModel


class Ollama(Gguf):
    """Ollama reads no Jinja: the chat template is rewritten in Go's language, and settings become parameters."""

    name: ClassVar[str] = "ollama"

    def write(self, loaded: LoadedModel, folder: Path, quantization: str) -> None:
        """Write model.gguf and Modelfile.

        Raises:
            UserError: the chat template cannot be rewritten.
        """
        task = getattr(loaded.model.config, SETTINGS, {}).get("task", "dialogue")
        talks = task not in ("classification", "completion")
        template = go_template(loaded.tokenizer) if talks else "{{ .Prompt }}"
        lines = [f"FROM ./{FILE}", f'TEMPLATE """{template}"""']
        lines += [f"PARAMETER {name} {value}" for name, value in _parameters(loaded)]
        write_text_atomically(folder / "Modelfile", "\n".join(lines) + "\n")
        super().write(loaded, folder, quantization)


def _parameters(loaded: LoadedModel) -> list[tuple[str, Any]]:
    """The generation settings under Ollama's names; where there is none, GenerationConfig's default, not Ollama's."""
    settings = generation_settings(loaded.model, {})

    def value(name: str, default: float) -> float:
        own = getattr(settings, name, None)
        return default if own is None else own

    stops = settings.stop_strings or []
    stops = [loaded.tokenizer.eos_token, *([stops] if isinstance(stops, str) else stops)]
    return [
        # Temperature 0 is how Ollama decodes greedily.
        ("temperature", value("temperature", 1.0) if settings.do_sample else 0),
        ("top_k", value("top_k", 50)),
        ("top_p", value("top_p", 1.0)),
        ("min_p", value("min_p", 0.0)),
        ("repeat_penalty", value("repetition_penalty", 1.0)),
        ("num_predict", settings.max_new_tokens),
        ("num_ctx", loaded.positions),
        *(("stop", f'"""{stop}"""') for stop in stops),
    ]


def go_template(tokenizer: Any) -> str:
    """The tokenizer's chat template in the language of Go's text/template, as Ollama reads it.

    What stands around the content of each role's turns is cut out of conversations that the tokenizer renders. Other
    conversations put together from these parts must then equal the rendered ones.

    Raises:
        UserError: they do not: the template does more than to put text around the turns.
    """

    def around(*roles: str, ask: bool = False) -> list[str]:
        """The texts before, between and after the contents of a conversation's turns."""
        turns = [{"role": role, "content": f"content-{place}"} for place, role in enumerate(roles)]
        rest, texts = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=ask), []
        for turn in turns:
            text, _, rest = rest.partition(turn["content"])
            texts.append(text)
        return [*texts, rest]

    first = around("user")[0]
    closed = {role: around("user", role)[-1] for role in ("user", "assistant")}
    asked = around("user", "assistant", "user")
    later = {"assistant": asked[1].removeprefix(closed["user"]), "user": asked[2].removeprefix(closed["assistant"])}
    system, between, _ = around("system", "user")
    closed["system"] = between.removesuffix(later["user"])
    question = around("user", ask=True)[-1].removeprefix(closed["user"])

    def composed(roles: Sequence[str]) -> list[str]:
        opened = [first if roles[0] == "user" else system, *(later[role] for role in roles[1:])]
        ends = ["", *(closed[role] for role in roles)]
        return [end + start for end, start in zip(ends, [*opened, question], strict=True)]

    for roles in (("user",), ("user", "assistant", "user"), ("system", *("user", "assistant") * 2, "user")):
        if composed(roles) != around(*roles, ask=True):
            raise UserError(
                "--to ollama: the chat template of this model does more than to put text around the turns, so it "
                "cannot be rewritten in Ollama's language. Export with --to gguf, and write the Modelfile by hand."
            )

    def turn(opened: str, role: str) -> str:
        return f"{opened}{{{{ $turn.Content }}}}{text(closed[role])}"

    def text(value: str) -> str:
        # A string of Go's language; JSON escapes the same way.
        return "{{ " + json.dumps(value, ensure_ascii=False) + " }}"

    opened = f"{{{{ if $index }}}}{text(later['user'])}{{{{ else }}}}{text(first)}{{{{ end }}}}"
    return (
        f'{{{{ range $index, $turn := .Messages }}}}{{{{ if eq $turn.Role "system" }}}}{turn(text(system), "system")}'
        f'{{{{ else if eq $turn.Role "assistant" }}}}{turn(text(later["assistant"]), "assistant")}'
        f"{{{{ else }}}}{turn(opened, 'user')}{{{{ end }}}}{{{{ end }}}}{text(question)}"
    )
