"""Exports: a model in the formats of other runtimes, each read back and compared after it is written."""

from gptft.export.exporting import FORMATS, Export, export_model, find_format

__all__ = ["FORMATS", "Export", "export_model", "find_format"]
