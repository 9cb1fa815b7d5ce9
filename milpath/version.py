"""The version of milpath."""

__version__ = "0.1.0"
