"""The systems that are compared, each in a process of its own: ours, plain PyTorch, the public one, Simulusion."""
