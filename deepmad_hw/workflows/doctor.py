"""What this machine has, lacks, and does to disturb a measurement; nothing is imported to find out. Layer 4."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import deepmad_hw
from profilers import environment

MOST_LOAD_PER_CORE = 0.3  # beyond it, another program shares the cores for much of the time
MOST_STOLEN_SHARE = 0.01

# The distributions that bring one and the same module `onnxruntime`.
_ONNXRUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml", "onnxruntime-rocm")


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """A package that some verb needs.

    Args:
        name: of the distribution.
        role: what it does here.
        version: the installed one, or None.
        install: the line that brings it, or None where it comes with the base.
    """

    name: str
    role: str
    version: str | None
    install: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Sensor:
    """A temperature that the system tells.

    Args:
        name: of the zone.
        celsius: its reading.
    """

    name: str
    celsius: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """What was found.

    Args:
        version: of this project.
        python: of the interpreter.
        system: operating system and machine.
        cpu: what the processor calls itself.
        cores: processors this process may use.
        features: instruction extensions that matter for convolutions.
        governor: frequency governor, or ``unknown``.
        load: runnable processes over the last minute.
        stolen_share: share of processor time since boot that a hypervisor gave to others, or None if nobody tells.
        gpus: what the driver calls the GPUs.
        sensors: temperatures.
        packages: runtimes and solvers, installed or not.
        noise: what makes measurements noisy here, each with what to do.
    """

    version: str
    python: str
    system: str
    cpu: str
    cores: int
    features: tuple[str, ...]
    governor: str
    load: float
    stolen_share: float | None
    gpus: tuple[str, ...]
    sensors: tuple[Sensor, ...]
    packages: tuple[Package, ...]
    noise: tuple[str, ...]

    @property
    def missing(self) -> tuple[Package, ...]:
        """Return the packages that are not installed."""
        return tuple(package for package in self.packages if package.version is None)


def diagnose() -> Diagnosis:
    """Look at this machine and at what is installed."""
    cores, governor, load = environment.usable_cores(), environment.governor(), environment.load_average()
    stolen, total = environment.stolen_and_total_ticks()
    stolen_share = stolen / total if total else None
    return Diagnosis(
        version=deepmad_hw.__version__,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpu=environment.cpu_name(),
        cores=cores,
        features=environment.cpu_features(),
        governor=governor,
        load=load,
        stolen_share=stolen_share,
        gpus=_gpus(Path("/proc/driver/nvidia/gpus")),
        sensors=_sensors(Path("/sys/class/thermal")),
        packages=tuple(_packages()),
        noise=noise(cores=cores, governor=governor, load=load, stolen_share=stolen_share),
    )


def noise(*, cores: int, governor: str, load: float, stolen_share: float | None) -> tuple[str, ...]:
    """Return what makes measurements noisy, each with what to do about it.

    Args:
        cores: processors this process may use.
        governor: frequency governor, or ``unknown``.
        load: runnable processes over the last minute.
        stolen_share: share of processor time that a hypervisor gave to others, or None if nobody tells.
    """
    found = []
    if load > MOST_LOAD_PER_CORE * cores:
        found.append(f"other programs are running (load {load:.2f} on {cores} cores): stop them or wait")
    if stolen_share is not None and stolen_share > MOST_STOLEN_SHARE:
        found.append(f"the host took away {stolen_share:.1%} of processor time: measure when it is quiet, or elsewhere")
    if governor == "unknown":
        found.append("the frequency governor cannot be seen (virtual machine?): expect drift of 5-10 % over minutes")
    elif governor != "performance":
        found.append(f"the frequency governor is {governor}: sudo cpupower frequency-set -g performance")
    if cores == 1:
        found.append("only one core may be used, which the system needs too: expect outliers")
    return tuple(found)


def _packages() -> Iterator[Package]:
    runtime = _onnxruntime()
    yield Package(name=runtime[0], role="runtime: ONNX on the CPU", version=runtime[1], install=_extra("cpu"))
    yield _package("openvino", "runtime: ONNX on the CPU, a second one", extra="openvino")
    yield _package("torch", "export: PyTorch module", extra="torch")
    yield _package("safetensors", "export: trained weights", extra="torch")
    yield _package("tensorrt", "export: engines for NVIDIA GPUs", extra="tensorrt")
    yield _package("tensorrt-rtx", "export: engines for NVIDIA RTX cards, built without one", extra="rtx")
    yield _package("nvidia-ml-py", "sensors of an NVIDIA GPU", extra="gpu")
    yield _package("highspy", "solver: HiGHS, certified designs")
    yield _package("casadi", "solver: IPOPT, continuous designs")
    yield _package("pyomo", "models for both solvers")
    yield _package("onnx", "export: ONNX files")
    yield _package("scikit-learn", "prediction from tables")


def _package(name: str, role: str, *, extra: str | None = None) -> Package:
    install = _extra(extra) if extra else f"pip install {name}"
    return Package(name=name, role=role, version=_version(name), install=install)


def _extra(name: str) -> str:
    return f'pip install "deepmad-hw[{name}]"'


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _onnxruntime() -> tuple[str, str | None]:
    """Return which ONNX Runtime is installed; two of its variants overwrite each other's files."""
    found = [(name, _version(name)) for name in _ONNXRUNTIMES]
    there = [(name, number) for name, number in found if number is not None]
    if find_spec("onnxruntime") is None or not there:
        return "onnxruntime", None
    return " and ".join(name for name, _ in there), " and ".join(str(number) for _, number in there)


def _gpus(folder: Path) -> tuple[str, ...]:
    names = []
    for file in sorted(folder.glob("*/information")):
        lines = dict(line.split(":", 1) for line in _text(file).splitlines() if ":" in line)
        names.append(lines.get("Model", "unknown").strip())
    return tuple(names)


def _sensors(folder: Path) -> tuple[Sensor, ...]:
    found = []
    for zone in sorted(folder.glob("thermal_zone*")):
        reading = _text(zone / "temp").strip()
        if reading.lstrip("-").isdecimal():
            found.append(Sensor(name=_text(zone / "type").strip() or zone.name, celsius=int(reading) / 1000))
    return tuple(found)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
