"""What a client may ask, in the words of OpenAI's API; a field that would be ignored is refused instead."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Text = Annotated[str, Field(min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        # Clients send null for what they leave open, and send an answer's message back with all its fields.
        return {key: item for key, item in value.items() if item is not None} if isinstance(value, dict) else value


class ChatMessage(_Strict):
    """A turn of the conversation; a model for text reads only text."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[dict[Literal["type", "text"], str]] = ""

    def turn(self) -> dict[str, str]:
        """The turn as the chat template takes it."""
        parts = self.content if isinstance(self.content, list) else [{"text": self.content}]
        role = "system" if self.role == "developer" else self.role
        return {"role": role, "content": "".join(part.get("text", "") for part in parts)}


class Body(_Strict):
    """What both kinds of requests have in common. What is left out is as in the model's generation settings."""

    model: str | None = None
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Text | Annotated[list[Text], Field(max_length=16)] = []
    stream: bool = False
    stream_options: dict[Literal["include_usage"], bool] = {}
    user: str = ""
    # Clients send these as they are when left alone.
    n: Literal[1] = 1
    presence_penalty: Literal[0] = 0
    frequency_penalty: Literal[0] = 0

    def generation(self) -> dict[str, Any]:
        """The fields as those of GenerationConfig. A temperature above 0 samples, and so does top_p or top_k alone."""
        asked = {name: getattr(self, name) for name in ("temperature", "top_p", "top_k")}
        if self.temperature == 0:
            return {"do_sample": False, **dict.fromkeys(asked)}
        asked = {name: value for name, value in asked.items() if value is not None}
        return {**asked, "do_sample": True, "num_beams": 1} if asked else {}


class ChatBody(Body):
    """POST /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)


class CompletionBody(Body):
    """POST /v1/completions."""

    prompt: Text
