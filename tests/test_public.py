"""`import deepmad_hw` is light, and its public names are true."""

import ast
import importlib.metadata
import inspect
import subprocess
import sys

import pytest

import deepmad_hw as dm

HEAVY = (
    "casadi",
    "highspy",
    "jinja2",
    "numpy",
    "onnx",
    "onnxruntime",
    "pydantic",
    "pyomo",
    "rich",
    "scipy",
    "sklearn",
    "torch",
    "typer",
    "yaml",
)


def loaded_by(statement):
    """Return the modules that a fresh interpreter has loaded after a statement."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{statement}\nprint(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import deepmad_hw",
        "import profilers",
        "import deepmad_hw as dm; dm.Architecture, dm.Problem, dm.Solution, dm.LayerMeasurement, dm.ConfigError",
        "import deepmad_hw.optimize, deepmad_hw.exporters, deepmad_hw.predict, deepmad_hw.workflows, deepmad_hw.cli",
        "import deepmad_hw.files.atomic, deepmad_hw.files.planfile, deepmad_hw.latency.measurement",
        "import deepmad_hw.network.architecture, deepmad_hw.network.layer",
    ],
)
def test_nothing_heavy_is_loaded(statement):
    assert loaded_by(statement) & set(HEAVY) == set()


def test_the_check_of_what_is_loaded_can_fail():
    assert "numpy" in loaded_by("import deepmad_hw.latency.model")


def test_importing_the_package_loads_no_other_module_of_it():
    assert {name for name in loaded_by("import deepmad_hw") if name.startswith("deepmad_hw")} == {"deepmad_hw"}


@pytest.mark.parametrize(("name", "place"), dm._PUBLIC.items())
def test_every_public_name_is_where_the_table_says(name, place):
    module, attribute = place.split(":")
    assert getattr(dm, name) is getattr(importlib.import_module(module), attribute)
    assert name in dir(dm)


def test_type_checkers_see_the_same_names_at_the_same_places():
    tree = ast.parse(inspect.getsource(dm))
    seen = {
        alias.asname: f"{node.module}:{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("deepmad_hw.")
        for alias in node.names
    }
    assert seen == dm._PUBLIC


@pytest.mark.parametrize("verb", ["bench", "design", "export", "profile", "verify"])
def test_a_verb_is_a_function_and_no_module(verb):
    assert callable(getattr(dm, verb))
    assert getattr(dm, verb).__doc__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'deepmad_hw' has no public name 'dezign'"):
        _ = dm.dezign


def test_no_public_name_hides_a_module_of_the_package():
    modules = {place.split(":")[0].split(".")[1] for place in dm._PUBLIC.values()}
    assert modules & set(dm._PUBLIC) == set()


def test_the_version_is_the_installed_one():
    assert importlib.metadata.version("deepmad-hw") == dm.__version__
