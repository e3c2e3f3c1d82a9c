"""The house keeps its rules: layers in docstrings, no circles, one line per plug-in, no code in data, no strays."""

import ast
import functools
import graphlib
import importlib
import re
import sys
import tomllib
from pathlib import Path

import grimp
import pytest

from deepmad_hw.network import families
from deepmad_hw.network.families.base import Family

pytestmark = pytest.mark.checkout

ROOT = Path(__file__).parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
SOURCES = sorted(path for room in ("deepmad_hw", "profilers") for path in (ROOT / room).rglob("*.py"))
EXAMPLES = [path for room in ("benchmarks", "examples") for path in sorted((ROOT / room).rglob("*.py"))]
PYTHON_FILES = [*SOURCES, *sorted((ROOT / "tests").rglob("*.py")), *EXAMPLES]
CONTRACTS = SETTINGS["tool"]["importlinter"]["contracts"]

TOP_LEVEL = {
    ".ci",
    ".gitignore",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "SECURITY.md",
    "benchmarks",
    "configs",
    "constraints.txt",
    "deepmad_hw",
    "docs",
    "examples",
    "hashes-dev.txt",
    "hashes-run.txt",
    "latency_tables",
    "mkdocs.yml",
    "profilers",
    "pyproject.toml",
    "tests",
}
# What tools and runs leave behind, all of it named in .gitignore.
LEFT_BEHIND = {
    ".bench",
    ".git",
    ".hypothesis",
    ".import_linter_cache",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    ".venv",
    "__pycache__",
    "build",
    "dist",
    "quickstart",
    "site",
}


def relative(path):
    return path.relative_to(ROOT).as_posix()


def module_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def layer_table():
    """Return layer by room, read from the import-linter contract that enforces it: the first one."""
    contract = next(c for c in CONTRACTS if c["type"] == "layers")
    lines = [re.findall(r"\w+", line) for line in reversed(contract["layers"])]
    siblings = next(i for i, names in enumerate(lines) if "optimize" in names)
    return {name: 2 if i < siblings else 3 if i == siblings else 4 for i, names in enumerate(lines) for name in names}


def layer_of(module):
    records = next(c for c in CONTRACTS if c["name"].startswith("Errors and records"))["source_modules"]
    if module in records:
        return 0 if module == "deepmad_hw.errors" else 1
    if module.split(".")[0] == "profilers":
        return 3
    first = (module.split(".")[1:] or ["__main__"])[0]
    assert first in layer_table(), f"{first} stands in no layer of the import-linter contract"
    return layer_table()[first]


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_the_first_docstring_line_says_one_job_and_the_layer(path):
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring, "no module docstring"
    first = docstring.splitlines()[0]
    said = re.findall(r"Layer (\d)", first)
    assert said == [str(layer_of(module_of(path)))], first


def third_party(source):
    """Return the packages that a Python text imports, at any depth, beyond the standard library and our own."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(str(node.module).split(".")[0])
    return found - set(sys.stdlib_module_names) - {"deepmad_hw", "profilers"}


def test_every_package_that_is_imported_has_a_room_in_the_contracts():
    housed = {name for contract in CONTRACTS for name in contract.get("protected_modules", [])}
    imported = {name: relative(path) for path in SOURCES for name in third_party(path.read_text())}
    everywhere = {"numpy"}  # but in errors and records, which a contract of its own keeps free of it
    everywhere |= {"jobs", "layers"}  # as the trainer's own files are called in a packed folder
    assert {name: path for name, path in imported.items() if name not in housed | everywhere} == {}


def test_every_layer_has_its_modules():
    assert {layer_of(module_of(path)) for path in SOURCES} == set(range(5))


OPEN_WITH_CODE = {  # packages whose own file does something: the public names, the command line, lists of plug-ins
    "deepmad_hw",
    "deepmad_hw.cli",
    "deepmad_hw.network.families",
    "deepmad_hw.optimize.quantities",
    "deepmad_hw.workflows.tables.imports",
}
ROOMS = {module_of(path): path for path in SOURCES if path.name == "__init__.py"}


def test_a_room_opens_with_its_docstring_alone():
    code = {room for room, path in ROOMS.items() if len(ast.parse(path.read_text()).body) > 1}
    assert code <= OPEN_WITH_CODE


@functools.cache
def imports():
    """Return which modules a module imports, within functions and for type checkers included."""
    graph = grimp.build_graph("deepmad_hw", "profilers", cache_dir=None)
    found = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    return found | {"deepmad_hw": set()}  # the public names again, for type checkers: the one exception


def circle(importing):
    """Return names that import each other, the first one again at the end, or none."""
    try:
        graphlib.TopologicalSorter(importing).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def between_rooms(room, importing):
    """Return which rooms and modules of a room import which others of it."""
    found = {}
    for module, imported in importing.items():
        inside = [name[len(room) + 1 :].split(".")[0] for name in (module, *imported) if name.startswith(f"{room}.")]
        if module.startswith(f"{room}."):
            found.setdefault(inside[0], set()).update(set(inside[1:]) - {inside[0]})
    return found


def test_a_circle_is_found():
    importing = {"a.b.x": {"a.c.y"}, "a.c.z": {"a.b.w", "d"}, "a.c.y": set(), "d": {"a.b.x"}}
    assert circle(importing) == []
    assert between_rooms("a", importing) == {"b": {"c"}, "c": {"b"}}
    assert set(circle(between_rooms("a", importing))) == {"b", "c"}


def test_no_modules_import_each_other_in_a_circle():
    assert len(imports()) > len(ROOMS)
    assert circle(imports()) == []


@pytest.mark.parametrize("room", ROOMS)
def test_no_rooms_import_each_other_in_a_circle(room):
    assert circle(between_rooms(room, imports())) == []


def test_no_module_imports_one_of_a_higher_layer():
    pairs = ((module, name) for module, imported in imports().items() for name in imported)
    assert [(module, name) for module, name in pairs if layer_of(module) < layer_of(name)] == []


FAMILY_FILES = sorted((ROOT / "deepmad_hw" / "network" / "families").glob("*.py"))
NOT_FAMILIES = {"__init__", "base", "residual"}


@pytest.mark.parametrize("path", [path for path in FAMILY_FILES if path.stem not in NOT_FAMILIES], ids=relative)
def test_every_family_of_a_file_is_in_the_table(path):
    module = importlib.import_module(f"deepmad_hw.network.families.{path.stem}")
    made = [value for value in vars(module).values() if isinstance(value, Family)]
    assert made, "a file of families that holds none"
    for family in made:
        assert families.get(family.name) is family


FORBIDDEN_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "requests", "urllib.request"}
FORBIDDEN_NAMES = {
    "allow_pickle=True",
    "eval",
    "exec",
    "os.popen",
    "os.system",
    "shell=True",
    "torch.load",
    "torch.save",
    "weights_only=False",
    "yaml.full_load",
    "yaml.load",
    "yaml.unsafe_load",
}


def forbidden_in(source):
    """Return what a Python text uses that turns data into code, starts shells or downloads."""
    imported, found = set(), set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Name | ast.Attribute):
            found.add(ast.unparse(node))
        elif isinstance(node, ast.keyword):
            found.add(f"{node.arg}={ast.unparse(node.value)}")
    modules = {module for module in FORBIDDEN_MODULES if any(f"{name}.".startswith(f"{module}.") for name in imported)}
    return modules | ((found | imported) & FORBIDDEN_NAMES)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import pickle", {"pickle"}),
        ("from joblib import load", {"joblib"}),
        ("import urllib.request as r", {"urllib.request"}),
        ("from torch import load", {"torch.load"}),
        ("torch.load(path)", {"torch.load"}),
        ("np.load(path, allow_pickle=True)", {"allow_pickle=True"}),
        ("run(line, shell=True)", {"shell=True"}),
        ("eval(text)", {"eval"}),
        ("read = yaml.load", {"yaml.load"}),
        ("yaml.safe_load(text); model.eval(); re.compile(text); requests = []; from urllib import parse", set()),
    ],
)
def test_code_by_data_is_found(source, expected):
    assert forbidden_in(source) == expected


@pytest.mark.promise("T14")
@pytest.mark.parametrize("path", PYTHON_FILES, ids=relative)
def test_data_never_becomes_code(path):
    assert forbidden_in(path.read_text()) == set()


def test_every_top_level_entry_is_expected():
    found = {path.name for path in ROOT.iterdir()}
    assert found - TOP_LEVEL - LEFT_BEHIND == set()
    assert TOP_LEVEL - found == set()


def test_what_tools_leave_behind_is_ignored_by_git():
    lines = (ROOT / ".gitignore").read_text().splitlines()
    ignored = {line.strip("/") for line in lines if line and not line.startswith("#")}
    assert LEFT_BEHIND - ignored == {".git"}


@pytest.mark.parametrize("room", ["configs", "latency_tables", "docs"])
def test_rooms_of_data_hold_no_code(room):
    assert [relative(path) for path in (ROOT / room).rglob("*.py")] == []


def test_both_packages_say_that_they_are_typed():
    for room in ("deepmad_hw", "profilers"):
        assert (ROOT / room / "py.typed").is_file()


def test_every_pin_is_exact_and_in_order():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert pins == sorted(pins, key=lambda pin: pin.split("=="))
    assert [pin for pin in pins if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", pin)] == []
    assert "torch==2.13.0" in pins


def test_every_requirement_is_pinned_for_developers():
    project = SETTINGS["project"]
    wanted = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    names = {re.match(r"[A-Za-z0-9-]+", line)[0].lower() for line in wanted}
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    not_in_the_index = {"tensorrt"}  # its libraries lie elsewhere, so no developer's environment is made with it
    assert names - pinned == not_in_the_index
