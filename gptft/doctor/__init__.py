"""What this machine has, what will run well on it, and what a recipe needs from elsewhere (`gptft doctor`)."""

from gptft.doctor.findings import Finding, findings_table
from gptft.doctor.machine import examine_machine
from gptft.doctor.offline import examine_recipe

__all__ = ["Finding", "examine_machine", "examine_recipe", "findings_table"]
