"""What a machine says of itself, or "unknown"."""

import os
from pathlib import Path

import pytest

from profilers import environment

X86 = """processor\t: 0
cpu family\t: 25
model\t\t: 17
model name\t: AMD EPYC
stepping\t: 1
flags\t\t: fpu sse4_1 avx2 fma avx512f hypervisor

processor\t: 1
model name\t: another
flags\t\t: amx_int8
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp crc32\nCPU part\t: 0xd08\n\nHardware\t: BCM2711\n"
PI = "processor\t: 0\nFeatures\t: fp asimd\nModel\t\t: Raspberry Pi 4 Model B\n"


@pytest.fixture
def says(monkeypatch):
    """Return a function: the texts of system files by a part of their path."""

    def say(**files):
        monkeypatch.setattr(
            environment, "_read", lambda path: next((text for part, text in files.items() if part in path), "")
        )

    return say


def test_a_processor_is_named_with_its_family(says):
    says(cpuinfo=X86)
    assert environment.cpu_name() == "AMD EPYC (25/17/1)"


def test_a_board_is_named(says):
    says(cpuinfo=PI)
    assert environment.cpu_name() == "Raspberry Pi 4 Model B"


@pytest.mark.parametrize(
    ("text", "features"), [(X86, ("avx2", "avx512f", "fma", "sse4_1")), (ARM, ("asimd", "asimddp"))]
)
def test_only_extensions_that_kernels_use_are_told_in_order(says, text, features):
    says(cpuinfo=text)
    assert environment.cpu_features() == features


@pytest.mark.promise("T9")
def test_a_system_that_tells_nothing_is_unknown(says, monkeypatch):
    says()
    monkeypatch.setattr(environment.platform, "processor", lambda: "")
    assert environment.cpu_name() == "unknown"
    assert environment.cpu_features() == ()
    assert environment.governor() == "unknown"
    assert environment.stolen_and_total_ticks() == (0, 0)
    assert environment.waited_ns() is None


def test_a_governor_is_told(says):
    says(scaling_governor="powersave\n")
    assert environment.governor() == "powersave"


def test_stolen_ticks_are_the_eighth_field(says):
    says(stat="cpu  10 20 30 40 50 60 70 80 900 1000\ncpu0 1 2 3 4 5 6 7 8 9 10\n")
    assert environment.stolen_and_total_ticks() == (80, 360)


STAT = """cpu  90 0 0 0 0 0 0 0 0 0
cpu0 10 20 30 1000 2000 3 4 5000 10 0
cpu1 7 0 0 9 9 0 0 9 0 0
cpu2 1 1 1 9 9 1 1 9 0 0
intr 1
"""


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system does not tell which processors are used")
def test_the_busy_time_is_that_of_the_usable_processors(says, monkeypatch):
    monkeypatch.setattr(os, "sysconf", {"SC_CLK_TCK": 100}.__getitem__)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2})
    says(stat=STAT)
    assert environment.busy_s() == (10 + 20 + 30 + 3 + 4 + 1 + 1 + 1 + 1 + 1) / 100
    for text in ("", "cpu0 1 2 3\n", "cpu 1 2 3 4 5 6 7 8\n"):
        says(stat=text)
        assert environment.busy_s() is None


def test_the_waits_of_a_process_are_told_by_the_scheduler_or_else_by_the_whole_system(says, monkeypatch):
    pressure = "some avg10=0.01 avg60=0.16 avg300=5.72 total=1234\nfull avg10=0 avg60=0 avg300=0 total=99\n"
    says(cpu=pressure)
    assert environment.waited_ns() == 1_234_000
    says(schedstat="500 70 3\n", cpu=pressure)
    assert environment.waited_ns() == 70 * len(list(Path("/proc/self/task").iterdir()))
    says()
    assert environment.waited_ns() is None


def test_the_memory_of_the_machine_is_told_in_bytes(says):
    says(meminfo="MemFree: 1 kB\nMemTotal:       24689484 kB\n")
    assert environment.memory_bytes() == 24689484 * 1024
    says()
    assert environment.memory_bytes() == 0


def test_this_machine_answers():
    assert environment.usable_cores() >= 1
    assert environment.cpu_name()
    assert environment.load_average() >= 0
    stolen, total = environment.stolen_and_total_ticks()
    assert 0 <= stolen <= total


def test_a_file_that_is_not_there_is_no_text(tmp_path):
    assert environment._read(str(tmp_path / "none")) == ""
