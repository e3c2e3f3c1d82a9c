"""The command line, called as a user calls it."""

from dataclasses import dataclass

import pytest

from deepmad_hw.cli import main

SMALL = """\
space:
  family: bottleneck
  resolution: 64
  classes: 10
  stem: {out: [16, 24]}
  stages:
    - {stride: 2, out: [32, 64], bottleneck: [8, 16], depth: [1, 2]}
    - {stride: 2, out: [64, 96], bottleneck: [16, 24], depth: [1, 2]}
limits:
  macs: 50M
"""


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """Return the one line that an error is, after any lines of progress."""
        lines = self.err.splitlines()
        assert [line.startswith("error: ") for line in lines].count(True) == 1, self.err
        assert lines[-1].startswith("error: "), self.err
        assert "Traceback" not in self.err
        return lines[-1].removeprefix("error: ")


@pytest.fixture
def run(capsys):
    """Run one command in this process."""

    def command(*arguments) -> Ran:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ran(code=code, out=captured.out, err=captured.err)

    return command


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path
