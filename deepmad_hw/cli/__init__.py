"""The command line: one file per verb; the only place that prints and exits. Layer 4."""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Sequence

from deepmad_hw import errors
from deepmad_hw.files.atomic import open_standard_streams

EXIT_OK = 0
EXIT_UNEXPECTED = 1
EXIT_USAGE = 2
EXIT_INPUT_FILE = 3
EXIT_INFEASIBLE = 4
EXIT_NOT_CERTIFIED = 5
EXIT_TOO_NOISY = 6
EXIT_FOREIGN_TABLE = 7
EXIT_MISSING_EXTRA = 8
EXIT_DEVICE_LOST = 9
EXIT_STORAGE = 74
EXIT_INTERRUPTED = 130

EXIT_CODES: dict[type[Exception], int] = {
    errors.ConfigError: EXIT_USAGE,
    errors.InputFileError: EXIT_INPUT_FILE,
    errors.NotCoveredError: EXIT_INPUT_FILE,
    errors.InfeasibleError: EXIT_INFEASIBLE,
    errors.SolverError: EXIT_NOT_CERTIFIED,
    errors.TooNoisyError: EXIT_TOO_NOISY,
    errors.ForeignTableError: EXIT_FOREIGN_TABLE,
    errors.MissingExtraError: EXIT_MISSING_EXTRA,
    errors.DeviceLostError: EXIT_DEVICE_LOST,
    errors.StorageError: EXIT_STORAGE,
}
STOPPED = "stopped; a measurement goes on where it was when the same command is given again"
LONGEST_LINE = 2000  # a file that is no table may hold megabytes where a name should be
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        arguments: what follows the program's name; None means the process's own.
    """
    open_standard_streams()
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    try:
        from deepmad_hw.cli.app import app

        result = app(args=[word for word in given if word != "--debug"], standalone_mode=False, prog_name="deepmad-hw")
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader went away (`| head`). Nothing is left to say, and the interpreter must not try to flush again.
        sys.stdout = None
        return EXIT_OK
    except BaseException as error:  # the outermost place: whatever it is, it becomes one line and a code
        if debug:
            traceback.print_exc()
        code, line = _explained(error)
        if line:
            print(line, file=sys.stderr)
        return code
    if result == EXIT_INTERRUPTED:  # typer answers Ctrl-C with this code instead of an exception
        print(STOPPED, file=sys.stderr)
    return result if isinstance(result, int) else EXIT_OK


def _explained(error: BaseException) -> tuple[int, str]:
    """Return the exit code of an error and the line that goes with it."""
    if isinstance(error, SystemExit):
        return (error.code if isinstance(error.code, int) else EXIT_UNEXPECTED), ""
    # Ctrl-C in the midst of loading a module comes out as the cause of another error.
    if isinstance(error.__cause__ or error, KeyboardInterrupt) or type(error).__name__ == "Abort":
        return EXIT_INTERRUPTED, STOPPED
    if isinstance(error, errors.DeepmadError):
        codes = (code for kind, code in EXIT_CODES.items() if isinstance(error, kind))
        return next(codes, EXIT_UNEXPECTED), f"error: {_one_line(error)}"
    if hasattr(error, "format_message"):  # the command line's own: unknown option, missing argument
        return EXIT_USAGE, f"error: {_usage(error)}"
    if isinstance(error, OSError) and error.errno in _FULL_DISK:
        return EXIT_STORAGE, f"error: {_one_line(error)}"
    fault = f"{type(error).__name__}: {_one_line(error)}"
    return EXIT_UNEXPECTED, f"error: unexpected {fault}; run again with --debug and report what it shows"


def _usage(error: BaseException) -> str:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "deepmad-hw"
    message = str(error.format_message()).rstrip(".")  # type: ignore[attr-defined]
    return f"{' '.join(message.split())}; see {path} --help"


def _one_line(error: BaseException) -> str:
    line = " ".join(str(error).split())
    return line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]}..."
