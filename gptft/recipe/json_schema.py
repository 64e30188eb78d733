"""The recipe's JSON schema, for editors: the models of schema.py with the keys of Hugging Face's classes put in."""

from __future__ import annotations

import importlib.metadata
from typing import Any

from gptft.recipe.fields import adapter_types, model_of
from gptft.recipe.schema import Recipe


def json_schema() -> dict[str, Any]:
    """The JSON schema of a recipe file, as plain values, all keys with types and descriptions."""
    schema = Recipe.model_json_schema()
    sections = {name: part["properties"] for name, part in schema["$defs"].items()}
    places = [
        ("training", schema["properties"]["training"]),
        ("evaluation.generation", sections["EvaluationSection"]["generation"]),
        ("model.config", sections["ModelSection"]["config"]),
    ]
    for section, place in places:
        place |= {"properties": _properties(section), "additionalProperties": False}
        place.pop("title", None)
    # Bases other than GPT-2 and adapters other than LoRA have fields of their own, checked when a recipe is read.
    sections["ModelSection"]["config"]["additionalProperties"] = True
    sections["AdapterSection"].update(_properties("adapter"))
    sections["AdapterSection"]["type"]["enum"] = sorted(adapter_types())
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("transformers", "peft"))
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$comment": f"Fields of {versions}."}
    return {**head, **_tidy(schema)}


def _properties(section: str) -> dict[str, Any]:
    properties = model_of(section).model_json_schema()["properties"]
    for field in properties.values():
        text = field.get("description", "")
        field["description"] = text if len(text) <= 300 else text[:300].rsplit(" ", 1)[0] + " ..."
    return properties


def _tidy(value: Any, names: bool = False) -> Any:
    """Without pydantic's titles and line ends in descriptions; `names`: the keys are names of fields."""
    if isinstance(value, dict):
        kept = {key: part for key, part in value.items() if names or key != "title"}
        return {key: _tidy(part, key in ("properties", "$defs") and not names) for key, part in kept.items()}
    if isinstance(value, list):
        return [_tidy(part) for part in value]
    return " ".join(value.split()) if isinstance(value, str) else value
