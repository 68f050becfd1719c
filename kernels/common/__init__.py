"""What all operations share, and what packages around them may use: checks of arguments, exact arithmetic, Triton."""
