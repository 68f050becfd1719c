"""The file of a run's metrics, read back without PyTorch."""

from __future__ import annotations

import json
import math
from pathlib import Path

from iris_fast.errors import UserError

METRICS_FILE = Path("logs") / "metrics.jsonl"

# JSON has no such numbers; strings suit every JSON reader, and `read_metrics` maps them back.
_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def read_metrics(run_dir: Path) -> list[dict[str, float]]:
    """The lines of a run's metrics.jsonl, oldest first, with NaN and infinities as floats.

    Empty if nothing has been logged. A partial last line (the run was killed while writing) is ignored; any other
    unreadable line is a UserError.
    """
    return [record for _, record in parse_lines(Path(run_dir) / METRICS_FILE)]


def parse_lines(path: Path) -> list[tuple[bytes, dict[str, float]]]:
    """Each whole line of the file as `(its bytes without the newline, its record)`."""
    if not path.is_file():
        return []
    lines = path.read_bytes().split(b"\n")
    parsed = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            record = {name: _NON_FINITE.get(value, value) for name, value in record.items()}
            parsed.append((line, record | {"epoch": int(record["epoch"])}))
        except (ValueError, TypeError, AttributeError, KeyError):
            if not any(later.strip() for later in lines[number:]):
                break
            raise UserError(f"line {number} of {path} is not a line of metrics: delete that line") from None
    return parsed
