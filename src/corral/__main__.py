"""Run the command line as `python -m corral`."""

from corral.cli import main

main()
