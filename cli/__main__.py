"""``python -m adreg.cli``."""

from adreg.cli.main import main

main()
