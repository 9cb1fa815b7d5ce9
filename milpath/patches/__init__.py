"""Patches: where they lie on a slide, and their pixels."""
