"""Learn from one label a slide, and show where the evidence lies."""

__version__ = "0.1.0"
