"""What must be true of every training, measured on this machine with tiny models (`gptft selftest`)."""

from gptft.selftest.checks import CHECKS, Check, Result, results_table, run_checks

__all__ = ["CHECKS", "Check", "Result", "results_table", "run_checks"]
