"""Files appear whole or not at all."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deepmad_hw.errors import StorageError
from deepmad_hw.files.atomic import write_atomically


def _names(folder):
    return [path.name for path in folder.iterdir()]


def test_writes_the_bytes_and_leaves_nothing_else(tmp_path):
    write_atomically(tmp_path / "a.bin", b"first")
    write_atomically(tmp_path / "a.bin", b"second")
    assert (tmp_path / "a.bin").read_bytes() == b"second"
    assert _names(tmp_path) == ["a.bin"]


def test_a_new_file_has_the_users_usual_permissions(tmp_path):
    (tmp_path / "usual").write_bytes(b"")
    write_atomically(tmp_path / "a.bin", b"x")
    assert (tmp_path / "a.bin").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_keeps_the_old_file_and_is_one_line(tmp_path, monkeypatch, code, step):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError(code, os.strerror(code))

    if step == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    else:
        monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(StorageError) as caught:
        write_atomically(path, b"new" * 1000)
    assert os.strerror(code) in str(caught.value)
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert _names(tmp_path) == ["a.bin"]


def test_a_missing_folder_is_a_storage_error(tmp_path):
    with pytest.raises(StorageError, match="No such file or directory"):
        write_atomically(tmp_path / "none" / "a.bin", b"x")


def test_an_interrupt_leaves_no_part_behind(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "a.bin", b"x")
    assert _names(tmp_path) == []


CLOSED = """
import os, sys
for number in map(int, sys.argv[1]):
    os.close(number)
os.execv(sys.executable, [sys.executable, "-c", sys.argv[2], *sys.argv[3:]])
"""
STREAMS = """
import os, sys
from deepmad_hw.files.atomic import open_standard_streams
open_standard_streams()
numbers = [stream.fileno() for stream in (sys.stdin, sys.stdout, sys.stderr)]
print("told", file=sys.stderr)
opened = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
os.write(opened, f"{numbers} {[os.get_inheritable(number) for number in numbers]} {opened > 2}".encode())
"""


@pytest.mark.parametrize("closed", ["", "0", "1", "2", "01", "012"])
def test_closed_standard_streams_are_open_and_no_file_takes_their_numbers(tmp_path, closed):
    words = [sys.executable, "-c", CLOSED, closed, STREAMS, str(tmp_path / "file")]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "" if "2" in closed else "told\n")
    assert (tmp_path / "file").read_text() == "[0, 1, 2] [True, True, True] True"
