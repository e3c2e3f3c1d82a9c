"""A made-up device whose every time is known."""

import numpy as np
import pytest

from deepmad_hw.latency.measurement import Environment, LayerMeasurement, NetworkMeasurement
from deepmad_hw.latency.table import CalibrationNetwork, LatencyTable
from deepmad_hw.network.layer import LayerSpec

ENVIRONMENT = Environment(
    device="paper",
    machine="none",
    cores=1,
    features=(),
    governor="unknown",
    runtime="replay",
    runtime_version="1",
)


def physics_us(spec):
    """Return a time as real kernels take it: channels in blocks of 16, a call, arithmetic, memory, slower depthwise."""
    pixels = spec.out_height * spec.out_width
    wide = [-(-count // 16) * 16 if count >= 8 else count for count in (spec.in_channels, spec.out_channels)]
    per_value = spec.kernel**2 * (1 if spec.depthwise else wide[0])
    macs = pixels * per_value * wide[1] if spec.op in ("conv", "linear") else 0
    values = spec.in_channels * spec.height * spec.width + spec.out_channels * pixels
    weights = spec.kernel**2 * spec.group_width * spec.out_channels if spec.op in ("conv", "linear") else 0
    speed = 8e3 if spec.depthwise else 45e3
    return 2.0 + macs / speed + values * 4 / 12e3 + weights * 4 / 20e3


def measured(spec, *, noise=0.0, random=None, count=9, status="ok"):
    middle = physics_us(spec)
    spread = np.zeros(count) if random is None else noise * random.standard_normal(count)
    return LayerMeasurement(spec=spec, samples_us=tuple(float(middle * (1 + s)) for s in spread), status=status)


def convolutions(count, seed, *, kernel=3, stride=1, depthwise=False, low=16, high=512):
    """Return distinct random convolutions whose channels and pixels span a range."""
    random = np.random.default_rng(seed)
    found = {}
    while len(found) < count:
        inner, outer = (8 * round(value / 8) for value in np.exp(random.uniform(np.log(low), np.log(high), 2)))
        side = int(random.choice([7, 14, 28, 56]))
        spec = LayerSpec(
            op="conv",
            in_channels=inner,
            out_channels=inner if depthwise else outer,
            height=side,
            width=side,
            kernel=kernel,
            stride=stride,
            groups=inner if depthwise else 1,
            activation="relu",
        )
        found[spec] = None
    return list(found)


@pytest.fixture(scope="session")
def paper():
    """Return the made-up device's functions."""

    class Paper:
        us = staticmethod(physics_us)
        row = staticmethod(measured)
        convolutions = staticmethod(convolutions)

        @staticmethod
        def table(rows, networks=()):
            calibration = tuple(
                CalibrationNetwork(
                    architecture=architecture,
                    measurement=NetworkMeasurement(name=f"n{index}", samples_us=(float(time_us),)),
                )
                for index, (architecture, time_us) in enumerate(networks)
            )
            return LatencyTable(name="paper", environment=ENVIRONMENT, rows=tuple(rows), calibration=calibration)

    return Paper
