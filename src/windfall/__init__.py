"""Windfall: pretraining language models on renewable electricity that would otherwise be curtailed."""

__version__ = "0.1.0"
