"""What sites on other machines cost in time: see ``__main__``. Platforms are those of the tests, which are found through here."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
