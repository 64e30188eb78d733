"""The recipe's JSON schema, for editors: the models of schema.py with the keys of Hugging Face's classes put in."""

from __future__ import annotations

import importlib.metadata
from typing import Any

from gptft.recipe.fields import adapter_types, model_of
from gptft.recipe.schema import Recipe


def json_schema() -> dict[str, Any]:
    """The JSON schema of a recipe file, as plain values, all keys with types and descriptions."""
    schema = Recipe.model_json_schema()
    definitions = schema["$defs"]
    places = {
        "training": (schema["properties"], "training", ""),
        "evaluation.generation": (definitions["EvaluationSection"]["properties"], "generation", ""),
        "model.config": (definitions["ModelSection"]["properties"], "config", ""),
    }
    for section, (properties, key, kind) in places.items():
        properties[key] = {**_fields(section, kind), "description": properties[key]["description"]}
    adapter = definitions["AdapterSection"]
    # The other adapters have fields of their own: the recipe is checked against them when it is read.
    adapter["properties"].update(_fields("adapter", "lora")["properties"])
    adapter["properties"]["type"]["enum"] = sorted(adapter_types())
    # Bases other than GPT-2 have configurations of their own.
    definitions["ModelSection"]["properties"]["config"]["additionalProperties"] = True
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("transformers", "peft"))
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$comment": f"Fields of {versions}."}
    return {**head, **_tidy(schema)}


def _fields(section: str, kind: str) -> dict[str, Any]:
    model = model_of(section, kind)
    assert model is not None  # the four kinds asked for here exist
    schema = model.model_json_schema()
    for field in schema["properties"].values():
        text = field.get("description", "")
        field["description"] = text if len(text) <= 300 else text[:300].rsplit(" ", 1)[0] + " ..."
    return {key: schema[key] for key in ("type", "properties", "additionalProperties")}


def _tidy(value: Any, names: bool = False) -> Any:
    """Without pydantic's titles and line ends in descriptions; `names`: the keys are names of fields."""
    if isinstance(value, dict):
        kept = {key: part for key, part in value.items() if names or key != "title"}
        return {key: _tidy(part, key in ("properties", "$defs") and not names) for key, part in kept.items()}
    if isinstance(value, list):
        return [_tidy(part) for part in value]
    return " ".join(value.split()) if isinstance(value, str) else value
