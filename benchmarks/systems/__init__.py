"""The compared systems, each in its process: ours, plain PyTorch, the public implementation, Simulusion."""
