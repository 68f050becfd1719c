"""Draws from categorical distributions: arguments, device code, and rows too long for registers."""
