"""The IRIS world-model agent (Micheli et al., ICLR 2023) on Atari, on one GPU or none.

Commands: `python -m iris_fast.train`, `.evaluate`, `.plot`, `.convert`; each has `--help`. From Python, start at
`iris_fast.agent.Agent` (the models together), `iris_fast.interop.files.read_weights` (checkpoints of either kind),
`iris_fast.imagination.oracle.OracleEngine` (dreams), `iris_fast.envs.make_vector_env` and `iris_fast.kernels`
(drop-in operations). Nothing is imported here, so that each costs only what it needs.
"""

__version__ = "0.1.0"
