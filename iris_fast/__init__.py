"""The IRIS world-model agent (Micheli et al., ICLR 2023) on Atari, on one GPU or none.

Commands: `python -m iris_fast.train`, `.evaluate`, `.plot`, `.convert`; each has `--help`. From Python:
`iris_fast.agent.Agent` combines the models, `iris_fast.interop.files.read_weights` reads checkpoints of either kind,
`iris_fast.imagination.oracle.OracleEngine` imagines, `iris_fast.envs.make_vector_env` makes environments, and
`iris_fast.kernels` has drop-in operations. Nothing is imported here, so each import loads only what it needs.
"""

__version__ = "0.1.0"
