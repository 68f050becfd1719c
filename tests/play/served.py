"""A server of fake sessions in a process of its own: `python -m tests.play.served FOLDER PORT [HOST]`."""

from __future__ import annotations

import sys
from pathlib import Path

from iris_fast.errors import run_command
from iris_fast.play.server import Place, serve
from tests.play.fake_session import FakeSession


def main(argv: list[str] | None = None) -> int:
    folder, port, *host = argv or sys.argv[1:]
    place = Place(lambda: FakeSession(Path(folder)), Path(folder), limit=2)
    serve(place, host=host[0] if host else "127.0.0.1", port=int(port), open_browser=False)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
