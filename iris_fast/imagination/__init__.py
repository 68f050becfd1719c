"""Rollouts inside the world model: the readable oracle, and fast engines behind one interface."""
