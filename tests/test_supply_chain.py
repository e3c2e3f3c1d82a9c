"""What is installed is what was pinned, under licences that allow it; what is built holds nothing else.

``python tests/test_supply_chain.py licences > docs/licences.md`` writes the page that one of these tests holds to the
packages; with ``run`` or ``dev`` in place of ``licences`` it prints the pins that hashes are made for.
"""

import re
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

pytestmark = pytest.mark.checkout

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
FOR_DEVELOPERS = {"dev", "docs"}
LOWEST_PYTHON = sys.version_info[:2] == (3, 11)  # later ones need fewer packages
ELSEWHERE = {"tensorrt"}  # in NVIDIA's own index; no developer's environment is made with it
ANY_BUILD = "torch"  # pinned to a version, and taken as the build that suits the machine
ONE_BUILDS = ("cuda-", "nvidia-")  # how packages begin that only some builds ask for; extras of ours may ask too
BUILD_TOOLS = ("hatchling", "editables")  # hatchling asks for the other only where it builds alone


def requirements(lines):
    return [Requirement(line) for line in lines]


def pins():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def needed(name, extras):
    """Return what a package with some extras needs here, itself included, through any number of others, by name.

    What torch brings beyond the pinned packages depends on the build, and what it brings of NVIDIA's does always.
    """
    found, waiting, seen = {}, [(name, extra) for extra in ("", *extras)], set()
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen or name in ELSEWHERE:
            continue
        seen.add((name, extra))
        found[name] = metadata.distribution(name)
        for each in requirements(found[name].requires or []):
            asked = canonicalize_name(each.name)
            wanted = each.marker is None or each.marker.evaluate({"extra": extra})
            in_every_build = asked in pins() and not asked.startswith(ONE_BUILDS)
            if wanted and (name != ANY_BUILD or in_every_build):
                waiting += [(asked, inner) for inner in ("", *each.extras)]
    return found


def needed_by(*extras):
    return {name: each for name, each in needed("deepmad-hw", extras).items() if name != "deepmad-hw"}


# --- versions -------------------------------------------------------------------------------------------------------


def test_every_package_that_is_needed_through_others_too_is_pinned_and_installed_so():
    installed = {name: each.version.partition("+")[0] for name, each in needed_by(*EXTRAS).items()}
    assert len(installed) > 100
    assert {name: pins().get(name) for name in installed} == installed


def pinned_for(*extras):
    """Return the pins of what some extras need, and of what installs the checkout; without torch: its build differs."""
    names = {*needed_by(*extras), *(name for tool in BUILD_TOOLS for name in needed(tool, ()))} - {ANY_BUILD}
    return {name: version for name, version in pins().items() if name in names}


def hashed(kind):
    """Return the pins of a file of hashes, and how many hashes each has."""
    text = (ROOT / f"hashes-{kind}.txt").read_text()
    entries = re.findall(r"^([a-z0-9-]+)==(\S+)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$", text, flags=re.MULTILINE)
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert sum(1 + hashes.count("sha256") for _, _, hashes in entries) == len(lines)
    return {name: version for name, version, _ in entries}


def test_every_pin_but_torchs_has_its_hashes():
    running, developing = hashed("run"), hashed("dev")
    assert {**developing, **running} == {name: version for name, version in pins().items() if name != ANY_BUILD}
    assert not running.keys() & developing.keys()
    needed_to_run = pinned_for("cpu")
    assert needed_to_run == running if LOWEST_PYTHON else needed_to_run.items() <= running.items()


def test_the_makefile_installs_nothing_before_its_hash_is_checked():
    lines = [line for line in (ROOT / "Makefile").read_text().splitlines() if "pip install" in line]
    first, then = lines[0::2], lines[1::2]
    assert len(first) == len(then) == 2
    assert all("--require-hashes --no-deps --requirement hashes-run.txt" in line for line in first)
    assert all("--constraint constraints.txt --no-build-isolation --editable" in line for line in then)


def test_packages_agree_with_each_other():
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_no_package_comes_from_an_address():
    lines = [*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)]
    everyone = [each for package in needed_by(*EXTRAS).values() for each in requirements(package.requires or [])]
    assert len(everyone) > len(lines) > 20
    assert [str(each) for each in (*requirements(lines), *everyone) if each.url] == []


# Faults in files that are given to us, and the first version without them. Read by hand; nothing is looked up.
ADVISORIES = {
    "onnx": (
        "1.21",
        ("CVE-2025-51480", "CVE-2026-27489", "CVE-2026-28500", "CVE-2026-34445", "CVE-2026-34447"),
    ),
    "onnxruntime": ("1.27", ("external paths: pull requests 26776, 27430, 27539, 28709, 28725",)),
    "torch": ("2.10", ("CVE-2025-32434", "CVE-2026-24747")),
}


@pytest.mark.parametrize("name", ADVISORIES)
def test_no_version_with_a_known_fault_is_let_in(name):
    fixed, faults = ADVISORIES[name]
    assert faults
    lines = [*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)]
    asked = [each for each in requirements(lines) if each.name == name]
    floors = [Version(part.version) for each in asked for part in each.specifier if part.operator == ">="]
    assert len(floors) == len(asked) > 0
    assert min(floors) >= Version(fixed)
    assert Version(pins()[name]) >= Version(fixed)
    assert not any(each.specifier.contains(f"{Version(fixed).major}.{Version(fixed).minor - 1}.99") for each in asked)


# --- licences -------------------------------------------------------------------------------------------------------

PERMISSIVE = {
    *("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "ISC", "LLVM-exception", "MIT"),
    *("MIT-CMU", "PSF-2.0", "Zlib"),
    # In the words of packages that say it without an SPDX expression.
    *("3-Clause BSD License", "Apache 2.0", "Apache Software License", "BSD", "BSD 3-Clause License", "BSD License"),
    *("ISC License", "MIT License", "Python Software Foundation License"),
}
ONE_BY_ONE = {  # used as they are, unchanged and not passed on
    "casadi": "GNU Lesser General Public License v3 or later (LGPLv3+)",
    "tensorrt-rtx": "Proprietary",  # NVIDIA's
    "tensorrt-rtx-cu13": "Proprietary",
    "tensorrt-rtx-cu13-bindings": "Proprietary",
    "tensorrt-rtx-cu13-libs": "Proprietary",
}
LONGEST_NAME = 80  # of a licence; longer ones are the licence itself


def licence(package):
    """Return what a package says of its licence: the expression, a name of one line, or the classifier."""
    said = package.metadata
    name = (said.get("License") or "").strip()
    if said.get("License-Expression"):
        return said["License-Expression"]
    if name and "\n" not in name and len(name) <= LONGEST_NAME:
        return name.removeprefix("OSI Approved :: ")
    classifiers = [each for each in said.get_all("Classifier") or [] if each.startswith("License :: ")]
    return classifiers[-1].rpartition(" :: ")[2] if classifiers else ""


def licence_page():
    """Return docs/licences.md as text."""
    extras = [name for name in EXTRAS if name not in FOR_DEVELOPERS]
    wanted = {"": needed_by(), **{extra: needed_by(extra) for extra in extras}}
    lines = []
    for name, package in sorted(needed_by(*extras).items()):
        users = [extra for extra, packages in wanted.items() if name in packages]
        shown = "every use" if "" in users else ", ".join(f"`{extra}`" for extra in users)
        lines.append(f"| {name} | {package.version.partition('+')[0]} | {licence(package)} | {shown} |")
    return LICENCE_PAGE.format(table="\n".join(lines))


LICENCE_PAGE = """\
# Licences

What deepmad-hw needs when it runs, directly or through others, at the versions that its tests are run with. The licence
is in the words of the package itself; deepmad-hw is under Apache-2.0. Written by
`python tests/test_supply_chain.py licences > docs/licences.md`, and held to the installed packages by the tests, which
refuse a licence that is not on their list.

| package | version | licence | needed for |
|---|---|---|---|
{table}

- CasADi is the one package under a copyleft licence that every use needs. It is installed beside deepmad-hw, unchanged,
  and holds IPOPT.
- TensorRT for RTX is NVIDIA's, under NVIDIA's own licence; only the extra `rtx` asks for it. TensorRT itself, which the
  extra `tensorrt` asks for, is so too; it comes from NVIDIA's own index and is not in the table.
- The default build of torch brings NVIDIA's CUDA libraries along. They depend on the build, and are not in the table.
- Wheels may hold libraries of others. Their licences lie in the `licenses` folder of each package's metadata.
"""


def packages_of(page):
    """Return the packages of a page of licences: version and licence, and who needs it."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:2] == "| "]
    return {name: (f"{version}, {said}", set(users.split(", "))) for name, version, said, users in rows[1:]}


class OtherBuild:
    """A package as another build of it would describe itself."""

    def __init__(self, package, *, version, asks):
        self.metadata, self.version = package.metadata, version
        self.requires = [*package.requires, *asks]


def test_which_build_of_torch_is_installed_does_not_matter(monkeypatch):
    here = licence_page()
    asks = ['cuda-bindings<14,>=13.0.3; platform_system != "none"', "nvidia-ml-py", "cuda-toolkit==13.0", "triton==3.7"]

    def built(asks):
        build = OtherBuild(metadata.distribution(ANY_BUILD), version=f"{pins()[ANY_BUILD]}+cu130", asks=asks)
        monkeypatch.setattr(metadata, "distribution", lambda name: build if name == ANY_BUILD else found(name))
        return licence_page()

    found = metadata.distribution
    assert built(asks) == here
    assert built([*asks, "pynvml"]) == here  # neither pinned nor in every build
    assert built([*asks, "pyarrow"]) != here  # what every build asks for is on the page


def test_every_package_has_a_licence_of_the_list():
    for name, package in needed_by(*(extra for extra in EXTRAS if extra not in FOR_DEVELOPERS)).items():
        found = licence(package)
        words = re.split(r" (?:AND|OR|WITH) |[()]", found)
        assert (set(filter(None, words)) <= PERMISSIVE and found) or ONE_BY_ONE.get(name) == found, f"{name}: {found!r}"


def test_the_page_of_licences_is_that_of_the_packages():
    page, made = (ROOT / "docs" / "licences.md").read_text(), licence_page()
    assert page == made or not LOWEST_PYTHON
    named, found = packages_of(page), packages_of(made)
    for name, (said, users) in found.items():  # with a later Python, fewer packages ask for some of them
        assert said == named[name][0], name
        assert users <= named[name][1] or "every use" in named[name][1], name
    assert (ROOT / "mkdocs.yml").read_text().count("licences.md") == 1


# --- the wheel ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Return the wheel as `make wheel` builds it, and nothing else: no archive of sources is made."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = folder.iterdir()
    with zipfile.ZipFile(path) as archive:
        yield {name: archive.read(name) for name in archive.namelist()}


def test_the_wheel_holds_all_sources_and_configs_and_nothing_else(wheel):
    inside = [path for room in ("deepmad_hw", "profilers") for path in (ROOT / room).rglob("*") if path.is_file()]
    kept = [path for path in inside if "__pycache__" not in path.parts]
    assert {path.suffix for path in kept if path.name != "py.typed"} <= {".css", ".jinja", ".js", ".md", ".py"}
    expected = {path.relative_to(ROOT).as_posix() for path in kept}
    expected |= {f"deepmad_hw/configs/{path.name}" for path in (ROOT / "configs").iterdir()}
    assert {"deepmad_hw/py.typed", "profilers/py.typed", "deepmad_hw/configs/quickstart.yaml"} <= expected
    found = {name for name in wheel if ".dist-info/" not in name}
    assert (found - expected, expected - found) == (set(), set())
    about = {name.partition(".dist-info/")[2] for name in wheel} - {""}
    assert about == {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}


def test_the_wheel_is_text_without_secrets_or_paths_of_this_machine(wheel):
    secret = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY|\b(AKIA|ghp_|github_pat_|hf_|xox[bap]-)[A-Za-z0-9_]{16,}")
    assert secret.search("key = ghp_0123456789abcdef0123")
    for name, data in wheel.items():
        text = data.decode("utf-8")  # no compiled code, no weights
        assert not secret.search(text), name
        assert str(ROOT) not in text, name
        assert str(Path.home()) + "/" not in text or Path.home() == Path("/"), name


def test_the_wheel_says_its_licence_and_asks_for_packages_by_name(wheel):
    (about,) = (data for name, data in wheel.items() if name.endswith("/METADATA"))
    said = Parser().parsestr(about.decode())
    assert (said["License-Expression"], said.get_all("License-File")) == ("Apache-2.0", ["LICENSE"])
    asked = requirements(said.get_all("Requires-Dist"))
    assert len(asked) > 20
    assert [str(each) for each in asked if each.url] == []
    (tags,) = (data.decode() for name, data in wheel.items() if name.endswith("/WHEEL"))
    assert "Root-Is-Purelib: true" in tags


def pins_of(kind):
    """Return the pins of one file of hashes, a line each."""
    running = pinned_for("cpu")
    wanted = running if kind == "run" else {name: pins()[name] for name in pins() if name not in {*running, ANY_BUILD}}
    return "".join(f"{name}=={version}\n" for name, version in wanted.items())


if __name__ == "__main__":
    sys.stdout.write(licence_page() if sys.argv[1] == "licences" else pins_of(sys.argv[1]))
