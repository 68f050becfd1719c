"""Checkpoints in and out: our weights file, the public implementation's, and the perceptual network's."""
