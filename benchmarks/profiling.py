"""The time of a call by operation; on a GPU by kernel, also within CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

MOST = 15  # number of operations in the result


def operations_of(function: Callable[[], object], device: torch.device) -> dict[str, Any]:
    """Seconds and calls of the slowest operations of one call of `function`, and the total.

    On a GPU these are kernels and copies; elsewhere PyTorch's operators, without the operators they call. If the
    profiler fails, the reason is under `error`.
    """
    on_gpu = device.type == "cuda"
    try:
        with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiler:
            function()
            if on_gpu:
                torch.cuda.synchronize(device)
    except Exception as error:  # a failing profile must not lose the measured time
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
