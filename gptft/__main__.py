"""`python -m gptft`: the same as the command `gptft`."""

from gptft.cli import main

main()
