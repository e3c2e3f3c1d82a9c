"""Designs convolutional networks for a device and a latency budget: the public names, all lazy. Layer 4.

``import deepmad_hw as dm`` loads nothing but this file. A name of `_PUBLIC` is imported when it is first used: the
verbs (`dm.design(problem)`, `dm.profile`, `dm.export`, `dm.bench`, `dm.verify`), the records they take and return,
and the errors they raise.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

# ONNX Runtime's own builds tell their maker about every use, unless told not to before they load.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:  # the same names again, for type checkers and editors; a test holds the two lists equal
    from deepmad_hw.network.architecture import Architecture as Architecture, Head as Head, Stage as Stage, Stem as Stem
    from deepmad_hw.problem.check import evaluate as evaluate
    from deepmad_hw.errors import (
        ConfigError as ConfigError,
        DeepmadError as DeepmadError,
        DeviceLostError as DeviceLostError,
        ForeignTableError as ForeignTableError,
        InfeasibleError as InfeasibleError,
        InputFileError as InputFileError,
        MissingExtraError as MissingExtraError,
        NotCoveredError as NotCoveredError,
        SolverError as SolverError,
        StorageError as StorageError,
        TooNoisyError as TooNoisyError,
    )
    from deepmad_hw.network.layer import Graph as Graph, LayerSpec as LayerSpec, Node as Node
    from deepmad_hw.latency.measurement import (
        Environment as Environment,
        LayerMeasurement as LayerMeasurement,
        NetworkMeasurement as NetworkMeasurement,
    )
    from deepmad_hw.problem.problem import LatencyLimit as LatencyLimit, Limits as Limits, Problem as Problem
    from deepmad_hw.problem.solution import Evaluation as Evaluation, Solution as Solution, Status as Status
    from deepmad_hw.problem.settings import Settings as Settings
    from deepmad_hw.problem.space import Space as Space, StageSpace as StageSpace
    from deepmad_hw.problem.objective import Objective as Objective
    from deepmad_hw.workflows.bench.bench import bench as bench
    from deepmad_hw.workflows.design.calibrate import calibrate as calibrate
    from deepmad_hw.workflows.design.design import design as design
    from deepmad_hw.workflows.export.export import export as export
    from deepmad_hw.workflows.profiling.profile import profile as profile
    from deepmad_hw.workflows.report.page import report as report
    from deepmad_hw.workflows.sweep.sweep import sweep as sweep
    from deepmad_hw.workflows.sweep.sweep_axes import Ranges as Ranges, make_plan as make_plan
    from deepmad_hw.workflows.networks.trainable import trainable as trainable
    from deepmad_hw.workflows.design.verify import verify as verify
    from deepmad_hw.workflows.trial.records import Recipe as Recipe, TrialSettings as TrialSettings
    from deepmad_hw.workflows.trial.run import trial as trial, verify_trial as verify_trial
    from deepmad_hw.workflows.trial.runner import Where as Where

__version__ = "0.1.0"

# Public name -> where it lives. One line makes a name public; a test holds every line true.
_PUBLIC = {
    # verbs
    "bench": "deepmad_hw.workflows.bench.bench:bench",
    "calibrate": "deepmad_hw.workflows.design.calibrate:calibrate",
    "design": "deepmad_hw.workflows.design.design:design",
    "evaluate": "deepmad_hw.problem.check:evaluate",
    "export": "deepmad_hw.workflows.export.export:export",
    "make_plan": "deepmad_hw.workflows.sweep.sweep_axes:make_plan",
    "profile": "deepmad_hw.workflows.profiling.profile:profile",
    "report": "deepmad_hw.workflows.report.page:report",
    "sweep": "deepmad_hw.workflows.sweep.sweep:sweep",
    "trainable": "deepmad_hw.workflows.networks.trainable:trainable",
    "trial": "deepmad_hw.workflows.trial.run:trial",
    "verify": "deepmad_hw.workflows.design.verify:verify",
    "verify_trial": "deepmad_hw.workflows.trial.run:verify_trial",
    # records
    "Architecture": "deepmad_hw.network.architecture:Architecture",
    "Environment": "deepmad_hw.latency.measurement:Environment",
    "Evaluation": "deepmad_hw.problem.solution:Evaluation",
    "Graph": "deepmad_hw.network.layer:Graph",
    "Head": "deepmad_hw.network.architecture:Head",
    "LatencyLimit": "deepmad_hw.problem.problem:LatencyLimit",
    "LayerMeasurement": "deepmad_hw.latency.measurement:LayerMeasurement",
    "LayerSpec": "deepmad_hw.network.layer:LayerSpec",
    "Limits": "deepmad_hw.problem.problem:Limits",
    "NetworkMeasurement": "deepmad_hw.latency.measurement:NetworkMeasurement",
    "Node": "deepmad_hw.network.layer:Node",
    "Objective": "deepmad_hw.problem.objective:Objective",
    "Problem": "deepmad_hw.problem.problem:Problem",
    "Ranges": "deepmad_hw.workflows.sweep.sweep_axes:Ranges",
    "Recipe": "deepmad_hw.workflows.trial.records:Recipe",
    "Settings": "deepmad_hw.problem.settings:Settings",
    "Solution": "deepmad_hw.problem.solution:Solution",
    "Space": "deepmad_hw.problem.space:Space",
    "Stage": "deepmad_hw.network.architecture:Stage",
    "StageSpace": "deepmad_hw.problem.space:StageSpace",
    "Status": "deepmad_hw.problem.solution:Status",
    "Stem": "deepmad_hw.network.architecture:Stem",
    "TrialSettings": "deepmad_hw.workflows.trial.records:TrialSettings",
    "Where": "deepmad_hw.workflows.trial.runner:Where",
    # errors
    "ConfigError": "deepmad_hw.errors:ConfigError",
    "DeepmadError": "deepmad_hw.errors:DeepmadError",
    "DeviceLostError": "deepmad_hw.errors:DeviceLostError",
    "ForeignTableError": "deepmad_hw.errors:ForeignTableError",
    "InfeasibleError": "deepmad_hw.errors:InfeasibleError",
    "InputFileError": "deepmad_hw.errors:InputFileError",
    "MissingExtraError": "deepmad_hw.errors:MissingExtraError",
    "NotCoveredError": "deepmad_hw.errors:NotCoveredError",
    "SolverError": "deepmad_hw.errors:SolverError",
    "StorageError": "deepmad_hw.errors:StorageError",
    "TooNoisyError": "deepmad_hw.errors:TooNoisyError",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used.

    Args:
        name: a key of `_PUBLIC`.

    Raises:
        AttributeError: the name is not public.
    """
    if name not in _PUBLIC:
        raise AttributeError(f"module 'deepmad_hw' has no public name {name!r}")
    module, attribute = _PUBLIC[name].split(":")
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted([*_PUBLIC, "__version__"])
