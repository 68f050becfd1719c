"""Measurements of iris_fast: one registry of cases, one runner, results as JSON."""
