"""Where the time of a call goes, operation by operation: on a GPU kernel by kernel, within CUDA graphs too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

MOST = 15  # operations that are named


def operations_of(function: Callable[[], object], device: torch.device) -> dict[str, Any]:
    """Seconds and calls of the operations that take the most of `function`, called once, and the sum of all.

    On a GPU those of its kernels and copies; elsewhere those of PyTorch's operators without the ones they call.
    What the profiler cannot do here is said under `error`.
    """
    on_gpu = device.type == "cuda"
    try:
        with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiler:
            function()
            if on_gpu:
                torch.cuda.synchronize(device)
    except Exception as error:  # where time goes is not worth losing how much of it there is
        return {"error": f"{type(error).__name__}: {error}"}
    seconds = {
        entry.key: (
            1e-6 * (entry.self_device_time_total if on_gpu else entry.self_cpu_time_total),
            entry.count,
        )
        for entry in profiler.key_averages()
    }
    largest = sorted(seconds.items(), key=lambda item: -item[1][0])[:MOST]
    return {
        "seconds": sum(each for each, _ in seconds.values()),
        "calls": sum(count for _, count in seconds.values()),
        "largest": [{"name": name, "seconds": s, "calls": n} for name, (s, n) in largest],
    }
