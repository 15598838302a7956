"""Ties a command to its parent: `tether.py PARENT_PID COMMAND...` runs COMMAND in its own place.

On Linux the kernel kills the command once the parent is gone, even if the parent was killed with -9
(prctl PR_SET_PDEATHSIG, which survives exec). Elsewhere this does nothing, and the next
`similis up` on the same folder ends what it finds still running: `services.local.child`.

A script and not a `preexec_fn`, which is unsafe in a process with threads. It imports as little as
it can, since every child of `similis up` waits for it.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Tie, then become the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
        if os.getppid() != parent:  # it went before the tie was made
            sys.exit(1)
    os.execvp(command[0], command)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main()
