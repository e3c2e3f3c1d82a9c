"""`python -m profilers`: measures a packed plan where the host's packages are not installed. Layer 3, device side."""

from __future__ import annotations

import os
import signal
import sys

EXIT_INTERRUPTED = 130  # that of `deepmad-hw`


def main() -> int:
    """Run the command line of the device side and return its exit code."""
    usual = signal.getsignal(signal.SIGINT)
    if usual is signal.default_int_handler:
        # An exception in the midst of loading a module may come out as another one; and nothing is begun yet.
        signal.signal(signal.SIGINT, lambda *_: os._exit(EXIT_INTERRUPTED))
    from profilers import command

    signal.signal(signal.SIGINT, usual)
    try:
        return command.main()
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
