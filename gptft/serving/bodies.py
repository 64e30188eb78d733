"""What a client may ask, in the words of OpenAI's API; a field that would be ignored is refused instead."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        # Clients send null for what they leave open, and send an answer's message back with all its fields.
        return {key: item for key, item in value.items() if item is not None} if isinstance(value, dict) else value


class Part(_Strict):
    """A part of a message; a model for text reads only text."""

    type: Literal["text"]
    text: str


class ChatMessage(_Strict):
    """A turn of the conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part] = ""
    annotations: list[Any] = Field(default=[], max_length=0)

    def turn(self) -> dict[str, str]:
        """The turn as the chat template takes it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class StreamOptions(_Strict):
    """What a stream holds besides the answer."""

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class Body(_Strict):
    """What both kinds of requests have in common. What is left out is as in the model's generation settings."""

    model: str | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: str | Annotated[list[str], Field(max_length=16)] = []
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    n: Literal[1] = 1
    presence_penalty: Literal[0] = 0
    frequency_penalty: Literal[0] = 0
    # They describe the caller, not the answer.
    user: str | None = None
    metadata: dict[str, Any] = {}
    store: Literal[False] = False

    def stops(self) -> list[str]:
        """Strings that end the answer and do not belong to it."""
        return [text for text in ([self.stop] if isinstance(self.stop, str) else self.stop) if text]

    def generation(self) -> dict[str, Any]:
        """The fields as those of GenerationConfig. A temperature above 0 samples, and so does top_p or top_k alone."""
        sampling = {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        asked = {key: value for key, value in sampling.items() if value is not None}
        if self.temperature == 0:
            return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        return {**asked, "do_sample": True, "num_beams": 1} if asked else {}


class ChatBody(Body):
    """POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: Literal[False] = False
    response_format: dict[Literal["type"], Literal["text"]] = {}
    tools: list[Any] = Field(default=[], max_length=0)
    tool_choice: Literal["none", "auto"] = "none"


class CompletionBody(Body):
    """POST /v1/completions."""

    prompt: Annotated[str, Field(min_length=1)]
    echo: Literal[False] = False
    best_of: Literal[1] = 1
