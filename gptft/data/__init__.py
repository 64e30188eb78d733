"""The data room: sources to rows of messages or text, cleaned, counted and split."""

from gptft.data.splits import DataReport, SplitReport, Splits, load_splits

__all__ = ["DataReport", "SplitReport", "Splits", "load_splits"]
