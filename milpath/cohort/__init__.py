"""Cohorts: the slides of a study, and splits that keep each case in one set."""
