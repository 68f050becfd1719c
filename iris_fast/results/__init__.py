"""Scores on Atari 100k as a paper reports them: published methods beside the user's runs."""

from .summary import Summary, summarize

__all__ = ["Summary", "summarize"]
