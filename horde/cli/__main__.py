"""`python -m horde.cli`, which is `horde`."""

from horde.cli import main

main(prog_name="horde")
