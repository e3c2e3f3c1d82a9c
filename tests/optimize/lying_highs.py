"""A HiGHS that solves and then says something else: whatever a solver may answer, at the border where it answers."""

from types import SimpleNamespace

import highspy
import numpy as np

TRUE_HIGHS = highspy.Highs
STATUSES = [
    each for name, each in vars(highspy.HighsModelStatus).items() if name.startswith("k") and name != "kHighsInterrupt"
]  # kHighsInterrupt is another name of kInterrupt
POINTS = (
    "none",
    "called infeasible",
    "breaks a limit",
    "fractions",
    "out of bounds",
    "no numbers",
    "wrong objective",
    "good",
)
_FLAGS = {
    "none": highspy.SolutionStatus.kSolutionStatusNone,
    "called infeasible": highspy.SolutionStatus.kSolutionStatusInfeasible,
}


def lying_highs(status, point, claim):
    """Return a class to put in the place of `highspy.Highs`.

    Args:
        status: what every run ends with.
        point: one of `POINTS`; what the best point looks like.
        claim: bound of every search for whole numbers, or None for the true one; relaxations keep theirs.
    """

    class LyingHighs(TRUE_HIGHS):
        _relaxed = True  # models that are never asked for whole numbers

        def passModel(self, problem):
            self._whole = np.array([kind == highspy.HighsVarType.kInteger for kind in problem.integrality_])
            self._most = np.array(problem.col_upper_)
            return super().passModel(problem)

        def setOptionValue(self, option, value):
            if option == "solve_relaxation":
                self._relaxed = value
            return super().setOptionValue(option, value)

        def getModelStatus(self):
            return status

        def getInfo(self):
            info = super().getInfo()
            return SimpleNamespace(
                primal_solution_status=_FLAGS.get(point, highspy.SolutionStatus.kSolutionStatusFeasible),
                objective_function_value=info.objective_function_value
                * (10 if point == "wrong objective" and not self._relaxed else 1),
                mip_dual_bound=info.mip_dual_bound if claim is None else claim,
                mip_gap=0.0,
            )

        def getSolution(self):
            told = super().getSolution()
            value = np.array(told.col_value)
            if not self._relaxed and len(value):
                value = _distorted(point, value, self._whole, self._most)
            return SimpleNamespace(col_value=value.tolist(), col_dual=told.col_dual, row_dual=told.row_dual)

    return LyingHighs


def _distorted(point, value, whole, most):
    """Return a point spoilt; depths are the whole numbers that may be above 1."""
    depth = whole & (most > 1)
    return {
        "breaks a limit": np.where(depth, most, value),
        "fractions": np.where(whole, 0.4, value),
        "out of bounds": np.where(depth, -1.0, value),
        "no numbers": np.full_like(value, np.nan),
    }.get(point, value)
