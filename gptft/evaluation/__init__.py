"""What a model answers on held-out rows, scored beside the base it started from."""

from gptft.evaluation.evaluate import Evaluation, evaluate

__all__ = ["Evaluation", "evaluate"]
