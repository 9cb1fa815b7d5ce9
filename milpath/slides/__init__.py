"""Slides: opened, read at an exact resolution, and their tissue found."""
