"""Training: the loop, its steps, and how a run is saved and watched."""
