"""Golden files, inputs and outputs of the full-size agent; `python -m tests.golden FILE` checks one."""
