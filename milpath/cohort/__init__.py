"""Cohorts: the slides of a study, and splits that keep a case on one side."""
