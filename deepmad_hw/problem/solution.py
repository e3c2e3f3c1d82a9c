"""What came out: a design, what it is worth and how sure that is. Layer 1, standard library only."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum

from deepmad_hw.network.architecture import Architecture
from deepmad_hw.problem.problem import Amount


class Status(StrEnum):
    """What a returned point is worth (why the solver stopped is another value)."""

    CERTIFIED = "certified"
    """Checked, and its gap to a proved bound is within the tolerance."""
    FEASIBLE = "feasible"
    """Checked, without a proof of how good it is (or with a larger gap)."""
    LOCAL = "local"
    """A continuous local optimum: no design yet, and no bound."""
    INFEASIBLE = "infeasible"
    """No design of the space keeps every limit."""
    FAILED = "failed"
    """No point was found and nothing was proved."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScaleValue:
    """One scale of a design: its features and their entropy.

    Args:
        pixels: height times width.
        channels: width of the features.
        entropy: H_s.
        rho: effectiveness of all layers up to it.
    """

    pixels: int
    channels: int
    entropy: float
    rho: float


@dataclass(frozen=True, kw_only=True, slots=True)
class LatencyValue:
    """What a latency model says of a design.

    Args:
        table: name of the model's table.
        device: what the table's device calls itself.
        budget_ms: the limit, or None.
        predicted_ms: the estimate.
        upper_ms: the estimate plus the table's calibrated margin, or None without calibration.
    """

    table: str
    device: str
    budget_ms: float | None
    predicted_ms: float
    upper_ms: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class TermValue:
    """One term of a design's worth.

    Args:
        term: its name.
        value: with its weight.
    """

    term: str
    value: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Worth:
    """What an objective other than DeepMAD's says of a design.

    Args:
        terms: whose sum the objective is.
        unit: of a calibrated objective, empty for a formula.
        leverage: how far the design lies from the networks that the objective was fitted to, None for a formula.
        largest_leverage: among those networks.
    """

    terms: tuple[TermValue, ...]
    unit: str = ""
    leverage: float | None = None
    largest_leverage: float | None = None

    @property
    def magnitude(self) -> float:
        """Return the sum of the terms' magnitudes."""
        return math.fsum(abs(term.value) for term in self.terms)

    @property
    def extrapolates(self) -> bool:
        """Return whether the design lies farther out than every network that the objective was fitted to."""
        return self.leverage is not None and self.largest_leverage is not None and self.leverage > self.largest_leverage


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Everything that can be said of a design without a solver.

    Args:
        score: DeepMAD's multi-scale entropy.
        penalty: DeepMAD's depth penalty Q.
        objective: what is maximised: score minus penalty, or the sum of `worth.terms`.
        scales: entropy and effectiveness per scale.
        macs: multiply-adds at batch 1.
        params: trainable parameters.
        memory_bytes: peak activation memory at fp32 and batch 1.
        latency: one value per latency model.
        others: of quantities that have no field of their own, those that were asked for.
        worth: what the objective is made of, None for DeepMAD's.
    """

    score: float
    penalty: float
    objective: float
    scales: tuple[ScaleValue, ...]
    macs: int
    params: int
    memory_bytes: int
    latency: tuple[LatencyValue, ...] = ()
    others: tuple[Amount, ...] = ()
    worth: Worth | None = None

    @property
    def unit(self) -> str:
        """Return the unit of a calibrated objective, nothing for a formula."""
        return "" if self.worth is None else self.worth.unit

    @property
    def gap_scale(self) -> float:
        """Return what a gap of 1 is: |objective| of DeepMAD's, the terms' magnitude of a formula, 1 if calibrated."""
        if self.worth is None:
            return abs(self.objective)
        return 1.0 if self.unit else self.worth.magnitude

    @property
    def max_rho(self) -> float:
        """Return the largest effectiveness over all scales."""
        return max(scale.rho for scale in self.scales)

    def other(self, limit: str) -> float:
        """Return the value of a quantity that has no field of its own.

        Args:
            limit: its name.

        Raises:
            LookupError: it was not asked for.
        """
        for amount in self.others:
            if amount.limit == limit:
                return amount.value
        raise LookupError(limit)


@dataclass(frozen=True, kw_only=True, slots=True)
class Price:
    """What one more unit of a limit would buy, from the continuous design's multipliers.

    Args:
        limit: ``macs``, ``params``, ``memory``, ``rho:scale3``, ``latency:TABLE``.
        binding: whether the limit holds the objective down.
        objective_per_unit: first-order gain of the objective per unit.
        unit: the unit, such as ``ms`` or ``M`` (million).
    """

    limit: str
    binding: bool
    objective_per_unit: float
    unit: str


@dataclass(frozen=True, kw_only=True, slots=True)
class MinimumValue:
    """The smallest value of one limited quantity that a design of the space can have.

    Args:
        limit: as in `Price`.
        value: the smallest value.
        unit: its unit.
        proved: whether it is a proved minimum.
    """

    limit: str
    value: float
    unit: str
    proved: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class ContinuousStage:
    """One stage of the continuous design.

    Args:
        out: channels returned.
        bottleneck: inner channels.
        kernel: side of the spatial convolution.
        stride: of the first block.
        depth: number of blocks.
    """

    out: float
    bottleneck: float
    kernel: float
    stride: int
    depth: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ContinuousDesign:
    """A local optimum over real widths and depths: it prices the limits and starts the search, it bounds nothing.

    Args:
        objective: of the relaxed problem.
        stem: width of the stem.
        stages: the stages.
        iterations: of the interior-point solver.
        solve_ms: time in the solver.
        surrogate_error: (median, worst) relative error of the latency surrogate per table.
    """

    objective: float
    stem: float
    stages: tuple[ContinuousStage, ...]
    iterations: int
    solve_ms: float
    surrogate_error: tuple[tuple[str, float, float], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Solution:
    """The answer to a problem.

    Args:
        problem: name of the problem.
        method: ``continuous``, ``fast`` or ``certified``.
        status: what the point is worth.
        stopped: why the solver stopped, in its own words.
        architecture: the design, if there is one.
        evaluation: everything recomputed for it.
        bound: proved upper bound on the objective, or None.
        gap_tolerance: gap at which a design was asked to count as certified, or None.
        continuous: the continuous design, if it was solved.
        prices: what each limit costs.
        minimum_values: smallest values that can be reached, when infeasible.
        notes: what a reader should know.
        versions: (package, version) of what took part.
        seed: of the search.
        timings_ms: (step, milliseconds), outside anything compared.
    """

    problem: str
    method: str
    status: Status
    stopped: str
    architecture: Architecture | None = None
    evaluation: Evaluation | None = None
    bound: float | None = None
    gap_tolerance: float | None = None
    continuous: ContinuousDesign | None = None
    prices: tuple[Price, ...] = ()
    minimum_values: tuple[MinimumValue, ...] = ()
    notes: tuple[str, ...] = ()
    versions: tuple[tuple[str, str], ...] = ()
    seed: int = 0
    timings_ms: tuple[tuple[str, float], ...] = field(default=(), compare=False)

    @property
    def objective(self) -> float | None:
        """Return the checked objective, or the continuous one where there is no design."""
        if self.evaluation is not None:
            return self.evaluation.objective
        return self.continuous.objective if self.continuous is not None else None

    @property
    def gap(self) -> float | None:
        """Return (bound - objective) / `Evaluation.gap_scale` of the checked design, None without a bound or scale."""
        if self.bound is None or self.evaluation is None or self.evaluation.gap_scale == 0:
            return None
        return (self.bound - self.evaluation.objective) / self.evaluation.gap_scale
