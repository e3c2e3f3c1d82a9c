"""What a trial is, as records and as ``trial.json``. Layer 4."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from deepmad_hw.errors import ConfigError
from deepmad_hw.files.jsonfile import Json, Place, parse_json, plain, read_text, record, versioned, write_json
from deepmad_hw.network.architecture import Architecture

SCHEMA = 1
TRIAL_FILE = "trial.json"
PRECISIONS = ("fp32", "bf16")
DEVICES = ("cpu", "cuda")


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How every network of a trial is trained; see `deepmad_hw.training.trainer`.

    Args:
        batch: images of a step.
        learning_rate: the highest.
        momentum: Nesterov's.
        weight_decay: of weights; norms and biases have none.
        warm_up: share of all steps in which the learning rate rises.
        label_smoothing: of the cross entropy.
        shift: largest random shift, as a share of the image's side.
        flips: whether images are mirrored at random; wrong for digits and text.
        precision: of multiplications, ``fp32`` or ``bf16``; weights are fp32.
    """

    batch: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warm_up: float = 0.2
    label_smoothing: float = 0.1
    shift: float = 0.125
    flips: bool = True
    precision: str = "fp32"

    def __post_init__(self) -> None:
        """Refuse recipes that train nothing."""
        if self.batch < 1:
            raise ConfigError(f"expected at least 1 image, got {self.batch}", where="batch")
        for name, highest in (("momentum", 1.0), ("warm_up", 1.0), ("label_smoothing", 1.0), ("shift", 0.5)):
            value = getattr(self, name)
            if not 0 <= value < highest:
                raise ConfigError(f"expected at least 0 and less than {highest:g}, got {value}", where=name)
        if not (0 < self.learning_rate < math.inf and 0 <= self.weight_decay < math.inf):
            raise ConfigError("expected a number above 0", where="learning_rate")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"expected one of {', '.join(PRECISIONS)}, got {self.precision!r}", where="precision")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialSettings:
    """All that decides a trial's results, beside the problem and the images.

    Args:
        networks: size of the population.
        epochs: over the training images, for each network.
        repeats: networks that are trained with a second seed, so that the noise is known.
        seed: of every random choice.
        validation: share of the training images that networks are compared on.
        recipe: of the trainings.
    """

    networks: int = 24
    epochs: int = 8
    repeats: int = 3
    seed: int = 0
    validation: float = 0.1
    recipe: Recipe = field(default_factory=Recipe)

    def __post_init__(self) -> None:
        """Refuse trials that say nothing."""
        if self.networks < 8:
            raise ConfigError(f"expected at least 8, got {self.networks}", where="networks")
        if self.epochs < 1:
            raise ConfigError(f"expected at least 1, got {self.epochs}", where="epochs")
        if not 0 <= self.repeats <= self.networks:
            raise ConfigError(f"expected 0 to {self.networks}, got {self.repeats}", where="repeats")
        if not 0 < self.validation < 1:
            raise ConfigError(f"expected a share between 0 and 1, got {self.validation}", where="validation")


@dataclass(frozen=True, kw_only=True, slots=True)
class ScaledReference:
    """A well-known network scaled to the budget, see `deepmad_hw.network.reference.scaled`.

    Args:
        name: of the network.
        width: factor of its channels.
        depth: factor of its blocks.
    """

    name: str
    width: float
    depth: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A network of a trial: one of the population, or a reference.

    Args:
        name: of the network.
        why: it was chosen.
        macs: multiply-adds at batch 1.
        params: parameters.
        predicted_ms: latency by the table, None without one or where it cannot say.
        measured_ms: latency on this device, None where it was not measured.
        architecture: a network of the problem's space.
        reference: a well-known network instead.
    """

    name: str
    why: str
    macs: int
    params: int
    predicted_ms: float | None = None
    measured_ms: float | None = None
    architecture: Architecture | None = None
    reference: ScaledReference | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageData:
    """The images of a trial.

    Args:
        path: of the folder or file, as it was given.
        classes: their names, in the order of the labels.
        train: number of images that train.
        validation: number of images that networks are compared on.
        sha256: of the pixels and labels of both.
    """

    path: str
    classes: tuple[str, ...]
    train: int
    validation: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """What is trained, on what, and how.

    Args:
        settings: of the trial.
        data: its images.
        least_share: of the budget that every member uses.
        condition: condition number of the population's features.
        members: the population.
        references: well-known networks at the same budget, which are no part of the fit.
    """

    settings: TrialSettings
    data: ImageData
    least_share: float
    condition: float
    members: tuple[Member, ...]
    references: tuple[Member, ...] = ()

    @property
    def networks(self) -> tuple[Member, ...]:
        """Return the population and the references."""
        return (*self.members, *self.references)

    def member(self, name: str) -> Member:
        """Return a network by its name.

        Args:
            name: of the network.

        Raises:
            LookupError: none has that name.
        """
        for each in self.networks:
            if each.name == name:
                return each
        raise LookupError(name)


def trial_to_json(trial: Trial) -> Json:
    """Return a trial as JSON data.

    Args:
        trial: what.
    """
    return {"schema": SCHEMA, **plain(trial)}


def write_trial(folder: Path, trial: Trial) -> None:
    """Write ``trial.json``.

    Args:
        folder: of the trial.
        trial: what.

    Raises:
        StorageError: it could not be written.
    """
    write_json(folder / TRIAL_FILE, trial_to_json(trial))


def read_trial(folder: Path) -> Trial:
    """Return the trial of a folder.

    Args:
        folder: that `write_trial` wrote to.

    Raises:
        InputFileError: it holds no trial, or none that can be read.
    """
    path = folder / TRIAL_FILE
    text = read_text(path)
    at = Place(str(path), text=text)
    return record(Trial, versioned(parse_json(text, where=str(path)), at, schema=SCHEMA), at)
