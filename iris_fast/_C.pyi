import numpy as np
from numpy.typing import NDArray

def keep_large_blocks() -> bool: ...
def sample_categorical(
    logits: NDArray[np.float32],
    seed: int,
    rows: NDArray[np.int64],
    positions: NDArray[np.int64],
    purpose: int,
    temperature: float = 1.0,
) -> NDArray[np.int64]: ...
