"""Prints the N-th fenced shell block of the README: `readme_command.py N`, counted from 1.

Continuous integration runs what this prints, so that what the README says and what is tested cannot drift
apart.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

BLOCK = re.compile(r"^```(?:bash|sh|shell|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def readme_command(number: int) -> str:
    """The text of the `number`-th shell block."""
    readme = Path(__file__).resolve().parents[1] / "README.md"
    return BLOCK.findall(readme.read_text(encoding="utf-8"))[number - 1].strip()


if __name__ == "__main__":
    print(readme_command(int(sys.argv[1])))
