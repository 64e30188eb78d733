"""The recipe: its schema, how it is read, checked and written."""

from gptft.recipe.catalogue import copy_recipe, list_recipes
from gptft.recipe.json_schema import json_schema
from gptft.recipe.loading import dump_recipe, load_recipe
from gptft.recipe.schema import Recipe

__all__ = ["Recipe", "copy_recipe", "dump_recipe", "json_schema", "list_recipes", "load_recipe"]
