"""The recipe: its schema, how it is read, checked and written."""

from gptft.recipe.schema import Recipe

__all__ = ["Recipe"]
