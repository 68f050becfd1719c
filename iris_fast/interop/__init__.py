"""Reading and writing checkpoints: our weights file, the public implementation's, and the perceptual network's."""
