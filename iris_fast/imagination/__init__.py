"""Rollouts inside the world model: the oracle that anyone can read, and engines behind one interface."""
