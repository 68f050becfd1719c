"""What is compiled ahead of time: one module an operation, each with a list `VARIANTS`."""
