"""Loads a checkpoint with a checkout of the public implementation, a black box in a process of its own.

`python -m tests.interop.reference_loader CHECKOUT CHECKPOINT NUM_ACTIONS with|without CONFIG` builds its agent
(`CONFIG`: JSON of our agent's configuration; with or without the perceptual network), calls its loader, which is
strict, and prints `loaded N` once each of its N tensors equals the file's.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from iris_fast.agent import config_from_dict
from iris_fast.interop.checkout import public_agent


def main() -> None:
    checkout, checkpoint, num_actions, perceptual, config = sys.argv[1:]
    agent_config = config_from_dict(json.loads(config))
    agent = public_agent(Path(checkout), agent_config, int(num_actions), perceptual == "with")
    agent.load(Path(checkpoint), torch.device("cpu"))
    saved = torch.load(checkpoint, weights_only=True)
    loaded = agent.state_dict()
    assert list(loaded) == list(saved), "names or their order differ"
    assert all(torch.equal(loaded[name], saved[name]) for name in saved), "values differ"
    assert all(loaded[name].dtype == saved[name].dtype for name in saved), "dtypes differ"
    print(f"loaded {len(saved)}")


if __name__ == "__main__":
    main()
