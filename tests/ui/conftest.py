"""Fixtures of the faces' tests: runs made by hand."""

from ui_runs import empty as empty
from ui_runs import small as small
from ui_runs import undrawn as undrawn
