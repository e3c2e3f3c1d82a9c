"""A card's sensors, told by a stand-in for the driver's library with the names of the real one."""

import importlib.util
import sys
import types

import pytest

from profilers import gpu_sensors
from profilers.gpu_sensors import REASONS, SLOWED, Card, Reading


class _Driver(types.ModuleType):
    """The calls and constants that are used, as the library names them."""

    class NVMLError(Exception):
        pass

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU, NVML_ERROR_NOT_FOUND = 1, 2, 0, 6
    nvmlClocksEventReasonGpuIdle = 1  # noqa: N815
    nvmlClocksEventReasonSwPowerCap = 4  # noqa: N815
    nvmlClocksThrottleReasonHwSlowdown = 8  # noqa: N815
    nvmlClocksEventReasonHwThermalSlowdown = 64  # noqa: N815

    def __init__(self):
        super().__init__("pynvml")
        self.__spec__ = importlib.util.spec_from_loader("pynvml", loader=None)
        self.reasons, self.opened, self.present, self.asked = 0, 0, True, []

    def nvmlInit(self):
        if not self.present:
            raise self.NVMLError("no driver")
        self.opened += 1

    def nvmlShutdown(self):
        self.opened -= 1

    def nvmlDeviceGetHandleByIndex(self, index):
        self.asked.append(index)
        return "handle"

    def nvmlDeviceGetHandleByUUID(self, uuid):
        self.asked.append(uuid)
        return "handle"

    def nvmlDeviceGetName(self, handle):
        return b"Card 1000"

    def nvmlDeviceGetCudaComputeCapability(self, handle):
        return 9, 0

    def nvmlSystemGetDriverVersion(self):
        return "600.1"

    def nvmlDeviceGetClockInfo(self, handle, kind):
        return {1: 1980, 2: 2619}[kind]

    def nvmlDeviceGetPowerUsage(self, handle):
        return 312_500

    def nvmlDeviceGetTemperature(self, handle, kind):
        return 64

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle):
        return self.reasons


@pytest.fixture
def driver(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    stand_in = _Driver()
    monkeypatch.setitem(sys.modules, "pynvml", stand_in)
    return stand_in


def test_a_card_says_what_it_is(driver):
    assert gpu_sensors.card() == Card(name="Card 1000", compute_capability="9.0", driver="600.1")
    assert driver.opened == 0


def test_a_reading_has_units(driver):
    driver.reasons = 4 | 8 | 64
    assert gpu_sensors.read() == Reading(
        sm_clock_mhz=1980,
        memory_clock_mhz=2619,
        power_w=312.5,
        temperature_c=64,
        reasons=("hw_slowdown", "hw_thermal", "power_cap"),
    )


def test_power_at_its_limit_is_how_a_card_works_and_heat_is_not(driver):
    driver.reasons = 4
    assert gpu_sensors.read().throttled == ()
    driver.reasons = 4 | 64
    assert gpu_sensors.read().throttled == ("hw_thermal",)


def test_the_call_is_taken_by_its_new_name_where_there_is_one(driver):
    driver.nvmlDeviceGetCurrentClocksEventReasons = lambda handle: 1
    assert gpu_sensors.read().reasons == ("idle",)


def test_a_driver_that_is_older_than_the_library_is_asked_by_the_old_name(driver):
    def unknown(handle):
        raise driver.NVMLError("function not found")

    driver.nvmlDeviceGetCurrentClocksEventReasons, driver.reasons = unknown, 64
    assert gpu_sensors.read().reasons == ("hw_thermal",)


@pytest.mark.parametrize(
    ("visible", "asked"), [(None, 0), ("3,1", 3), ("GPU-1234,GPU-5678", "GPU-1234"), ("MIG-99", "MIG-99")]
)
def test_the_card_is_the_one_that_cuda_sees_first(driver, monkeypatch, visible, asked):
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpu_sensors.card() is not None
    assert driver.asked == [asked]


@pytest.mark.parametrize("visible", ["", "-1", "none"])
def test_no_card_is_seen_where_cuda_sees_none(driver, monkeypatch, visible):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpu_sensors.card() is None
    assert driver.opened == 0


def test_without_a_driver_there_is_no_card(driver):
    driver.present = False
    assert gpu_sensors.card() is None
    assert gpu_sensors.read() is None


def test_without_the_library_there_is_no_card(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None)
    assert gpu_sensors.card() is None


def test_readings_are_summed_up_by_their_extremes():
    readings = [
        Reading(sm_clock_mhz=clock, memory_clock_mhz=2619, power_w=power, temperature_c=heat, reasons=reasons)
        for clock, power, heat, reasons in ((1980, 300.0, 60, ("power_cap",)), (1755, 310.0, 66, ("sw_thermal",)))
    ]
    assert gpu_sensors.summary(readings) == {
        "sm_clock_min_mhz": 1755,
        "sm_clock_max_mhz": 1980,
        "memory_clock_min_mhz": 2619,
        "power_max_w": 310.0,
        "temperature_max_c": 66,
        "clock_reasons": "power_cap sw_thermal",
        "throttled": "sw_thermal",
    }


@pytest.mark.promise("T9")
def test_a_card_that_does_not_tell_why_is_unknown(driver):
    def silent(handle):
        raise driver.NVMLError("not supported")

    driver.nvmlDeviceGetCurrentClocksThrottleReasons = silent
    assert gpu_sensors.read() is None
    assert gpu_sensors.summary([]) == {"clock_reasons": "unknown"}


def test_every_reason_that_spoils_a_time_has_a_name():
    assert set(REASONS.values()) >= SLOWED


def test_the_real_library_has_every_name_that_is_used():
    nvml = pytest.importorskip("pynvml", reason='nvidia-ml-py is not installed: pip install "deepmad-hw[gpu]"')
    used = {name for name in vars(_Driver) if name.startswith(("nvml", "NVML"))}
    assert {name for name in used if not hasattr(nvml, name)} == set()
    assert all(gpu_sensors._bit(nvml, name) for name in REASONS)
    assert len({gpu_sensors._bit(nvml, name) for name in REASONS}) == len(REASONS)
