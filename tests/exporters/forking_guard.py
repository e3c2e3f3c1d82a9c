"""The child of the ONNX loader without its start: imports once, then a fork for every model that comes in.

Each fork does what the loader's own child does, from `main` on: it shuts itself in, judges, answers and ends. Models
come over standard input with their size before them; so do exit code and answer go back.
"""

import io
import os
import sys

from deepmad_hw.exporters import onnx_guard


def serve(source, sink):
    while size := source.read(8):
        code, said = judged(source.read(int.from_bytes(size, "big")))
        sink.write(code.to_bytes(1, "big") + len(said).to_bytes(8, "big") + said)
        sink.flush()


def judged(data):
    """Return exit code and answer of a fork that judges one model."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        _judge(data, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        said = answer.read()
    _, status = os.waitpid(child, 0)
    return min(abs(os.waitstatus_to_exitcode(status)), 255), said


def _judge(data, writing):
    code = 1
    try:
        os.dup2(writing, 1)
        sys.stdin = io.TextIOWrapper(io.BytesIO(data))
        onnx_guard.main()
        sys.stdout.flush()
        code = 0
    finally:  # whatever was raised: the fork must not go on as the server
        os._exit(code)


if __name__ == "__main__":
    serve(sys.stdin.buffer, os.fdopen(os.dup(1), "wb"))
