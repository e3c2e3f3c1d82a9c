"""Times work on a CUDA device with events: graphs, repeats, launch cost, sensors. Layer 3, device side.

Facts this rests on: a graph is launched at once, so its time is the device's own; without one, the processor may need
longer to launch a small network's kernels than the device to run them, and both times are worth knowing. An idle
device stamps the first event before the work arrives, so work is repeated between two events until the gap is small.
Waiting costs tens of microseconds, so it is done once per measurement, outside the events.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from profilers import gpu_sensors
from profilers.backend import NodeTimes

WARM_UP_S = 0.2
MIN_RUN_US = 2000.0  # between two events
MAX_REPEATS = 1000
LAUNCHES = 20  # measured to know what a launch costs
LAUNCH_BOUND = 0.8  # share of the device's time above which launching decides
SENSORS_EVERY_S = 0.25
COPIES = 8  # of a layer between two events, so that the events' own time does not count

Work = Callable[[], None]


class Gpu(Protocol):
    """The few calls of a driver that timing takes; everything is ordered on one stream."""

    def event(self) -> Any:
        """Return a new event."""

    def record(self, event: Any) -> None:
        """Have the device stamp an event when it gets there; allowed inside a captured work too."""

    def elapsed_us(self, begin: Any, end: Any) -> float:
        """Return the time between two stamped events in microseconds."""

    def wait(self) -> None:
        """Wait until all work is done."""

    def capture(self, work: Work) -> Work:
        """Return a function that launches at once what `work` launches piece by piece."""


class WholeSession:
    """A network timed as a whole.

    Args:
        gpu: the device.
        work: launches one inference, its inputs and outputs resident.
        graph: whether it is launched at once.
        clock: of the processor, in seconds.
        sensors: reads the card's state.
    """

    def __init__(
        self,
        gpu: Gpu,
        work: Work,
        *,
        graph: bool = True,
        clock: Callable[[], float] = time.perf_counter,
        sensors: Callable[[], gpu_sensors.Reading | None] = gpu_sensors.read,
    ) -> None:
        self._gpu, self._clock, self._sensors = gpu, clock, sensors
        self._begin, self._end = gpu.event(), gpu.event()
        self._readings: list[gpu_sensors.Reading] = []
        self._read_s = clock()
        self._warm_up(work)
        self._launch_us, plain_us = self._launched_piece_by_piece(work)
        self._launch = gpu.capture(work) if graph else work
        self._repeats = 1
        once_us = statistics.median(self.run() for _ in range(3))
        self._repeats = min(max(1, round(MIN_RUN_US / max(once_us, 1e-3))), MAX_REPEATS)
        self._device_us = self.run() if graph else plain_us

    def run(self) -> float:
        """Return the time of one inference in microseconds: that of several in a row, divided."""
        self._gpu.record(self._begin)
        for _ in range(self._repeats):
            self._launch()
        self._gpu.record(self._end)
        self._gpu.wait()
        self._look()
        return self._gpu.elapsed_us(self._begin, self._end) / self._repeats

    def finish(self) -> NodeTimes:
        """Return nothing; nodes are timed by another session."""
        return NodeTimes()

    def conditions(self) -> dict[str, float | str]:
        """Return the card's state during the runs and now, and whether launching decides the time without a graph."""
        self._read()
        bound = self._launch_us > LAUNCH_BOUND * self._device_us
        launch: dict[str, float | str] = {"launch_us": self._launch_us, "launch_bound": "yes" if bound else "no"}
        readings, self._readings = self._readings, []
        return gpu_sensors.summary(readings) | launch

    def _warm_up(self, work: Work) -> None:
        until_s = self._clock() + WARM_UP_S
        while self._clock() < until_s:
            work()
            self._gpu.wait()

    def _launched_piece_by_piece(self, work: Work) -> tuple[float, float]:
        """Return how long the processor launches one inference, and how long that takes the device."""
        launches_us, devices_us = [], []
        for _ in range(LAUNCHES):
            self._gpu.record(self._begin)
            begin_s = self._clock()
            work()
            launches_us.append((self._clock() - begin_s) * 1e6)
            self._gpu.record(self._end)
            self._gpu.wait()
            devices_us.append(self._gpu.elapsed_us(self._begin, self._end))
        return statistics.median(launches_us), statistics.median(devices_us)

    def _look(self) -> None:
        if self._clock() - self._read_s < SENSORS_EVERY_S:
            return
        self._read()

    def _read(self) -> None:
        reading = self._sensors()
        if reading is not None:
            self._readings.append(reading)
        self._read_s = self._clock()


class LayersSession:
    """A network timed layer by layer, every layer repeated in its place so that no launch and no event counts.

    Args:
        gpu: the device.
        layers: (name, launches this layer once on what the layers before it left), in order.
    """

    def __init__(self, gpu: Gpu, layers: Sequence[tuple[str, Work]]) -> None:
        self._gpu = gpu
        self._names = [name for name, _ in layers]
        self._marks = [gpu.event() for _ in range(len(layers) + 1)]
        self._runs: list[list[float]] = []
        for _, layer in layers:
            layer()
        gpu.wait()
        self._launch = gpu.capture(lambda: self._marked(layers))

    def _marked(self, layers: Sequence[tuple[str, Work]]) -> None:
        self._gpu.record(self._marks[0])
        for (_, layer), mark in zip(layers, self._marks[1:], strict=True):
            for _ in range(COPIES):
                layer()
            self._gpu.record(mark)

    def run(self) -> float:
        """Return the sum of the layers' times in microseconds."""
        self._launch()
        self._gpu.wait()
        marks = itertools.pairwise(self._marks)
        self._runs.append([self._gpu.elapsed_us(begin, end) / COPIES for begin, end in marks])
        return sum(self._runs[-1])

    def finish(self) -> NodeTimes:
        """Return every layer's times, one for each run."""
        us = {name: tuple(values) for name, values in zip(self._names, zip(*self._runs, strict=True), strict=True)}
        return NodeTimes(us=us, operations=dict.fromkeys(self._names, 1))
