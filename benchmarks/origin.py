"""Where a benchmark's figures come from: the command that made them, and the machine."""

import sys

from profilers.environment import cpu_name, usable_cores


def command():
    """Return the command that is running, as a person types it."""
    return " ".join(["python", *sys.argv])


def machine():
    """Return this machine in a few words."""
    return f"{usable_cores()} cores, {cpu_name()}"
