"""The IRIS world-model agent (Micheli et al., ICLR 2023) on Atari, on one GPU or none.

Commands: `python -m iris_fast.train`, `.evaluate`, `.plot`, `.convert`; each has `--help`. From Python:
`iris_fast.agent.Agent` has the models together, `iris_fast.interop.files.read_weights` reads checkpoints of
either kind, `iris_fast.imagination.oracle.OracleEngine` dreams, `iris_fast.envs.make_vector_env` plays, and
`iris_fast.kernels` has drop-in operations. Nothing is imported here, so that each costs only what it needs.
"""

__version__ = "0.1.0"
