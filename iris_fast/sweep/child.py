"""`python -m iris_fast.sweep.child PARENT MODULE ARGUMENTS`: becomes `python -m MODULE ARGUMENTS`.

Before that it undoes what it inherits from a Ray worker, which blocks Ctrl-C's signal, and asks the system to send
SIGTERM when the worker ends, so that a killed worker leaves no run behind: it saves and ends. Only Linux can do
that; elsewhere such a run goes on, and the next attempt waits for its folder.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, *words = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):  # it ended before this process could ask
        sys.exit(128 + signal.SIGTERM)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.execv(sys.executable, [sys.executable, "-m", *words])


if __name__ == "__main__":
    main()
