"""What a run was and gave, as pictures and as a page."""

from gptft.report.page import add_report, write_report

__all__ = ["add_report", "write_report"]
