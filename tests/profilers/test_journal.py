"""The journal keeps what it was given, or says that it cannot."""

import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import zlib
from dataclasses import asdict, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepmad_hw.errors import DeepmadError, DeviceLostError, ForeignTableError, InputFileError, StorageError
from profilers.journal import Journal, Unit, device_lock

IDENTITY = {"plan": "abc", "threads": "1"}

names = st.text(st.characters(codec="utf-8"), max_size=12)
# Runtimes that flush subnormal numbers to zero do so for the whole process.
times = st.lists(st.floats(0, 1e9, allow_subnormal=False), max_size=5).map(tuple)
some_units = st.builds(
    Unit,
    probe=names,
    round=st.integers(0, 100),
    status=st.sampled_from(["ok", "timeout", "error"]),
    canary_us=times,
    total_us=times,
    nodes_us=st.dictionaries(names, times, max_size=3),
    operations=st.dictionaries(names, st.integers(0, 9), max_size=3),
    seconds=st.floats(0, 1e6, allow_subnormal=False),
    stolen=st.floats(0, 1, allow_subnormal=False),
    message=names,
)


def unit(number, *, values=4):
    return Unit(
        probe=f"probe{number % 7}",
        round=number // 7,
        canary_us=(100.5, 101.25, 99.75, 100.0),
        total_us=tuple(1000.5 + number + value for value in range(values)),
        nodes_us={"conv": tuple(10.25 + number + value for value in range(values))},
        operations={"conv": 1},
        seconds=0.5,
    )


def write(path, count):
    units = [unit(number) for number in range(count)]
    with Journal(path, IDENTITY) as book:
        for each in units:
            book.add(each)
    return units


@given(found=st.lists(some_units, max_size=4, unique_by=lambda each: (each.probe, each.round)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_units_come_back_as_they_were_given(tmp_path, found):
    path = tmp_path / "journal"
    path.unlink(missing_ok=True)
    with Journal(path, IDENTITY) as book:
        for each in found:
            book.add(each)
    with Journal(path, IDENTITY) as book:
        read = list(book.units())
    assert read == sorted(found, key=lambda each: (each.round, each.probe.encode()))


def test_a_unit_can_be_read_elsewhere_as_soon_as_it_is_added(tmp_path):
    with Journal(tmp_path / "journal", IDENTITY) as book:
        book.add(unit(0))
        with Journal(tmp_path / "journal", IDENTITY) as other:
            assert list(other.units()) == [unit(0)]


def test_commits_wait_for_the_disk(tmp_path):
    with Journal(tmp_path / "journal", IDENTITY) as book:
        assert book._connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
        assert book._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"plan": "abd", "threads": "1"}, "begun with plan = abc, now it is abd"),
        ({"plan": "abc", "threads": "2"}, "begun with threads = 1, now it is 2"),
        ({"plan": "abc", "threads": "1", "batch": "4"}, "begun with batch = None, now it is 4"),
    ],
)
def test_a_journal_of_another_measurement_is_not_continued(tmp_path, other, said):
    write(tmp_path / "journal", 2)
    with pytest.raises(ForeignTableError, match=said):
        Journal(tmp_path / "journal", other)
    with Journal(tmp_path / "journal", IDENTITY) as book:
        assert len(list(book.units())) == 2


def test_a_journal_of_a_later_schema_is_not_continued(tmp_path, monkeypatch):
    write(tmp_path / "journal", 1)
    monkeypatch.setattr("profilers.journal.SCHEMA", 2)
    with pytest.raises(ForeignTableError, match="begun with schema = 1, now it is 2"):
        Journal(tmp_path / "journal", IDENTITY)


def test_an_identity_is_stored_whole_or_not_at_all(tmp_path, monkeypatch):
    def half(self, identity):
        self._connection.execute("INSERT INTO meta VALUES ('plan', 'abc')")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "_require_identity", half)
        with pytest.raises(KeyboardInterrupt):
            Journal(tmp_path / "journal", IDENTITY)
    with Journal(tmp_path / "journal", IDENTITY) as book:
        assert list(book.units()) == []


def damaged(path):
    with pytest.raises(InputFileError) as caught, Journal(path, IDENTITY) as book:
        list(book.units())
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert "delete it to measure anew" in str(caught.value)
    return str(caught.value)


def test_a_file_that_is_no_journal_is_refused(tmp_path):
    (tmp_path / "journal").write_bytes(random.Random(0).randbytes(8192))
    assert "not a database" in damaged(tmp_path / "journal")


@pytest.mark.parametrize("table", ["units (probe)", "meta (name)", "units (probe, round, unit)"])
def test_another_programs_database_is_refused(tmp_path, table):
    connection = sqlite3.connect(tmp_path / "journal")
    connection.execute(f"CREATE TABLE {table}")
    connection.close()
    damaged(tmp_path / "journal")


def test_a_folder_in_its_place_is_a_storage_error(tmp_path):
    with pytest.raises(StorageError, match="cannot write the journal"):
        Journal(tmp_path, IDENTITY)


def test_one_altered_time_is_seen(tmp_path):
    write(tmp_path / "journal", 3)
    raw = (tmp_path / "journal").read_bytes()
    assert raw.count(b"1001.5") > 0
    (tmp_path / "journal").write_bytes(raw.replace(b"1001.5", b"7001.5", 1))
    assert "is not as it was written" in damaged(tmp_path / "journal")


def test_a_row_under_another_name_is_seen(tmp_path):
    write(tmp_path / "journal", 2)
    connection = sqlite3.connect(tmp_path / "journal")
    connection.execute("UPDATE units SET probe = 'probe5' WHERE probe = 'probe1'")
    connection.commit()
    connection.close()
    assert "is not as it was written" in damaged(tmp_path / "journal")


def test_the_checksum_covers_name_round_and_text(tmp_path):
    write(tmp_path / "journal", 1)
    connection = sqlite3.connect(tmp_path / "journal")
    ((probe, number, text, checksum),) = connection.execute("SELECT probe, round, unit, checksum FROM units")
    connection.close()
    assert checksum == zlib.crc32(f"{probe}\0{number}\0{text}".encode())


def read_or_refuse(path, stored):
    """Return how many units are left, or None for a refusal; any other unit or error fails the test."""
    try:
        with Journal(path, IDENTITY) as book:
            found = list(book.units())
    except DeepmadError:
        return None
    assert all(each in stored for each in found)
    return len(found)


@pytest.fixture
def with_log(tmp_path):
    """Return a journal of 30 units whose last ones still stand in SQLite's write-ahead log, as a kill leaves it."""
    path, copy = tmp_path / "journal", tmp_path / "copy"
    stored = write(path, 20)
    with Journal(path, IDENTITY) as book:
        for number in range(20, 30):
            book.add(unit(number))
            stored.append(unit(number))
        shutil.copy(path, copy)
        shutil.copy(f"{path}-wal", f"{copy}-wal")
    return copy, stored


def test_what_a_kill_leaves_is_complete(with_log):
    path, stored = with_log
    assert read_or_refuse(path, stored) == 30


@pytest.mark.promise("T2", 1000)
def test_a_torn_log_gives_a_prefix(with_log, tries):
    path, stored = with_log
    file, log = path.read_bytes(), path.with_name("copy-wal").read_bytes()
    seen = set()
    for number in tries:
        length = random.Random(number).randrange(len(log))
        found = read_prefix(path, file, log[:length])
        assert found == stored[: len(found)]
        assert len(found) >= 20
        seen.add(len(found))
    assert len(seen) > 5


def read_prefix(path, file, log):
    """Return the units of a journal whose file and log are these bytes."""
    path.write_bytes(file)
    path.with_name(f"{path.name}-wal").write_bytes(log)
    path.with_name(f"{path.name}-shm").unlink(missing_ok=True)
    with Journal(path, IDENTITY) as book:
        return list(book.units())


def flipped(data, chance):
    spoilt = bytearray(data)
    spoilt[chance.randrange(len(spoilt))] ^= 1 << chance.randrange(8)
    return bytes(spoilt)


@pytest.mark.promise("T2", 500)
def test_one_flipped_byte_of_the_file_is_refused_or_harmless(tmp_path, tries):
    path = tmp_path / "journal"
    stored = write(path, 30)
    file, found = path.read_bytes(), []
    for number in tries:
        for extra in ("-wal", "-shm"):
            path.with_name(f"journal{extra}").unlink(missing_ok=True)
        path.write_bytes(flipped(file, random.Random(number)))
        found.append(read_or_refuse(path, stored))
    assert set(found) == {None, 30}  # pages hold free space, where a flip changes nothing


@pytest.mark.promise("T2", 500)
def test_one_flipped_byte_of_the_log_gives_a_prefix(with_log, tries):
    path, stored = with_log
    file, log = path.read_bytes(), path.with_name("copy-wal").read_bytes()
    seen = set()
    for number in tries:
        found = read_prefix(path, file, flipped(log, random.Random(number)))
        assert found == stored[: len(found)]
        seen.add(len(found))
    assert len(seen) > 5


WRITER = """
import json, sys
from pathlib import Path
from profilers.journal import Journal, Unit
print("ready", flush=True)
rows = json.loads(sys.stdin.readline())
with Journal(Path(sys.argv[1]), {"plan": "abc"}) as book:
    for row in rows:
        book.add(Unit(probe=f"probe{row}", round=row % 3, total_us=(float(row),)))
"""
WRITERS = 8


@pytest.fixture(scope="module")
def shared_journal(tmp_path_factory):
    return tmp_path_factory.mktemp("shared") / "journal"


@pytest.mark.promise("T4", 4000)
def test_eight_writers_at_once_store_every_row(shared_journal, tries):
    start = [sys.executable, "-c", WRITER, str(shared_journal)]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    writers = [subprocess.Popen(start, text=True, **pipes) for _ in range(WRITERS)]
    assert [process.stdout.readline() for process in writers] == ["ready\n"] * WRITERS
    for first, process in enumerate(writers):
        process.stdin.write(f"{list(tries[first::WRITERS])}\n")
        process.stdin.flush()
    for process in writers:
        _, said = process.communicate(timeout=120)
        assert (process.returncode, said) == (0, "")
    with Journal(shared_journal, {"plan": "abc"}) as book:
        found = [(unit.probe, unit.round, *unit.total_us) for unit in book.units()]
    assert len(found) == len(set(found))
    assert set(found) >= {(f"probe{row}", row % 3, float(row)) for row in tries}


def test_two_at_once_are_refused():
    with device_lock("cpu"):
        with pytest.raises(DeviceLostError, match="another process is measuring on the cpu"), device_lock("cpu"):
            pass
        with device_lock("other"):
            pass
    with device_lock("cpu"):
        pass


def test_a_lock_that_cannot_be_made_is_a_storage_error(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(StorageError, match="the lock of the cpu could not be made: No such file"), device_lock("cpu"):
        pass


def test_the_lock_ends_with_its_process():
    code = (
        "import os, signal; from profilers.journal import device_lock\n"
        "with device_lock('cpu'): print('held', flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.stdout, ended.returncode) == ("held\n", -9)
    with device_lock("cpu"):
        pass


def test_a_unit_is_written_once(tmp_path):
    with Journal(tmp_path / "journal", IDENTITY) as book:
        book.add(unit(0))
        with pytest.raises((DeepmadError, sqlite3.IntegrityError)):
            book.add(replace(unit(0), seconds=2.0))
        assert [asdict(each) for each in book.units()] == [asdict(unit(0))]
