"""A latency table as a model of whole networks: layers add up, whole networks calibrate the sum. Layer 3."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from deepmad_hw.errors import NotCoveredError
from deepmad_hw.expand import expand
from deepmad_hw.layer import LayerSpec
from deepmad_hw.predict.interpolate import Interpolator
from deepmad_hw.predict.intervals import conformal_margin
from deepmad_hw.table import CalibrationNetwork, LatencyTable

# A measured row is taken as it is if its median is this sure; else the rows around it know better.
EXACT_RELATIVE_ERROR = 0.05


class TableModel:
    """Predicts networks from a table. Implements `deepmad_hw.latency.LatencyModel`.

    Rows that were measured well are taken as they are, others are interpolated. A network's latency is
    ``gain * sum of layers``; the gain is the median of measured over summed among the table's calibration networks.
    It is near 1, because layers are timed inside networks; a separate overhead could not be told from it.

    Args:
        table: the measured rows.
    """

    def __init__(self, table: LatencyTable) -> None:
        self.table = table
        self._interpolator = Interpolator(table.rows)
        self._exact_us = {
            row.spec: row.median_us
            for row in table.rows
            if row.status == "ok" and row.relative_error <= EXACT_RELATIVE_ERROR
        }
        self._gain, self.calibration_errors = self._calibrated(table.calibration)

    @property
    def name(self) -> str:
        """Return the table's name."""
        return self.table.name

    @property
    def device(self) -> str:
        """Return what the table's device calls itself."""
        return self.table.environment.device

    @property
    def overhead_ms(self) -> float:
        """Return what a network costs besides its layers: nothing, their rows hold it."""
        return 0.0

    @property
    def margin(self) -> float | None:
        """Return m of ``upper = predicted * (1 + m)`` at 90 %, or None without enough calibration networks."""
        return conformal_margin(self.calibration_errors)

    def covers(self, specs: Sequence[LayerSpec]) -> NDArray[np.bool_]:
        """Return for each layer whether it was measured or lies between measured rows.

        Args:
            specs: n layers.
        """
        exact = np.array([spec in self._exact_us for spec in specs], dtype=np.bool_)
        return exact | self._interpolator.covers(specs)

    def layers_ms(self, specs: Sequence[LayerSpec]) -> NDArray[np.float64]:
        """Return each layer's share of a network's latency in milliseconds.

        Args:
            specs: n layers.

        Raises:
            NotCoveredError: the table cannot answer for one of them.
        """
        return self._layers_us(specs) * (self._gain / 1e3)

    def _layers_us(self, specs: Sequence[LayerSpec]) -> NDArray[np.float64]:
        covered = self.covers(specs)
        if not covered.all():
            first = specs[int(np.argmin(covered))]
            raise NotCoveredError(f"no rows surround {first}", where=self.name)
        distinct = list(dict.fromkeys(spec for spec in specs if spec not in self._exact_us))
        known = self._exact_us
        if distinct:
            known = known | dict(zip(distinct, self._interpolator.predict_us(distinct).tolist(), strict=True))
        return np.array([known[spec] for spec in specs], dtype=np.float64)

    def _calibrated(self, networks: Sequence[CalibrationNetwork]) -> tuple[float, tuple[float, ...]]:
        """Return the gain, and each network's relative error when the others calibrate."""
        pairs = []
        for network in networks:
            specs = [node.spec for node in expand(network.architecture)]
            if network.measurement.samples_us and self.covers(specs).all():
                pairs.append((float(self._layers_us(specs).sum()), network.measurement.median_us))
        if not pairs:
            return 1.0, ()
        ratios = [measured_us / total_us for total_us, measured_us in pairs]
        others = (ratios[:left_out] + ratios[left_out + 1 :] for left_out in range(len(ratios)))
        errors = tuple(ratio / float(np.median(rest)) - 1 for ratio, rest in zip(ratios, others, strict=True) if rest)
        return float(np.median(ratios)), errors
