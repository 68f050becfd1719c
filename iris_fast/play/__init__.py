"""Watching and playing a run in the browser."""
