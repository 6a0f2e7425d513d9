"""``python -m windfall``."""

from windfall.cli.main import main

main()
