"""Real results of two small sweeps, and a real browser."""

import dataclasses
import itertools
import shutil
from dataclasses import replace
from enum import Enum
from pathlib import Path

import pytest

from deepmad_hw.problem.solution import MinimumValue, Solution, Status
from deepmad_hw.workflows.results.results import Point, Reference, Row, read_results
from deepmad_hw.workflows.results.results_folder import load_results

RESULTS = Path(__file__).parents[2] / "data" / "results"

TAGS = [
    "script",
    "img src=x",
    "svg",
    "iframe",
    "body",
    "object data=x",
    "embed src=x",
    "link rel=x",
    "base href=x",
    "a",
]
SHAPES = [
    "<{tag}>owned()</{tag}>",
    "<{tag} onload=owned() onerror=owned()>",
    '"><{tag} onfocus="owned()" autofocus>',
    "'><{tag} onmouseover='owned()' href='javascript:owned()'>",
    "</script><{tag} src=//evil.example/x.js>",
    '</style><{tag} style="background:url(//evil.example)">',
    '-->]]><{tag} xlink:href="https://evil.example/#x"/>',
    "{{{{ owned() }}}}{{% owned() %}}$owned$<{tag}>",
    "&lt;{tag}&gt;&#60;{tag} onclick=owned()&#62;",
    "\u202e\u0000\x1b[31m\u2028<{tag}/onload=owned()>\ud800",
]
PAYLOADS = [shape.format(tag=tag) for shape, tag in itertools.product(SHAPES, TAGS)]


@pytest.fixture(scope="session")
def latency_sweep():
    """Eight measured designs and five reference networks."""
    return load_results(RESULTS / "latency")


@pytest.fixture(scope="session")
def rho_sweep():
    """Six designs at 25 ms, not measured."""
    return read_results(RESULTS / "rho" / "sweep.json")


@pytest.fixture(scope="session")
def browser():
    """A Chromium that tells what it complained about and what it asked for."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (extra dev)")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("no Chromium here: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    # The sandbox needs rights that containers lack; the pages are our own.
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield started
    started.quit()


def hostile(record, words):
    """Return a record with every text, at any depth, replaced by the next of endless words."""
    if isinstance(record, Enum):
        return record
    if isinstance(record, str):
        return next(words)
    if isinstance(record, tuple):
        return tuple(hostile(item, words) for item in record)
    if isinstance(record, dict):
        return record
    if dataclasses.is_dataclass(record):
        kept = {
            "family",
            "group",
            "limit",
            "table",
            "method",
            "precision",
        }  # read by us: joined by equality, or from a fixed list
        values = {f.name: getattr(record, f.name) for f in dataclasses.fields(record) if f.name not in kept}
        return replace(record, **{name: hostile(value, words) for name, value in values.items()})
    return record


@pytest.fixture(scope="session")
def attacked(latency_sweep):
    """Results in which every text is an attack, all hundred of them in every kind of text."""
    return _attacked(latency_sweep, PAYLOADS)


@pytest.fixture(scope="session")
def attack(latency_sweep):
    """Return a function: the number of an attack -> the attack, and results in which every text is it."""
    return lambda number: (PAYLOADS[number], _attacked(latency_sweep, PAYLOADS[number : number + 1]))


def _attacked(results, payloads):
    words = (f"{payload} {n}" for n, payload in enumerate(itertools.cycle(payloads)))
    found = hostile(results, words)
    every = " ".join(payloads)
    table = f"{every} table"
    points = tuple(
        replace(
            point,
            name=f"{payload} point {i}",
            group=f"{every} group",
            rows=tuple(replace(row, table=table, name=every) for row in point.rows),
            solution=replace(
                point.solution,
                problem=every,
                stopped=every,
                notes=(every,),
                versions=((every, every),),
                prices=tuple(replace(price, limit=f"latency:{every}", unit=every) for price in point.solution.prices),
                evaluation=replace(
                    point.solution.evaluation,
                    latency=tuple(replace(v, table=table, device=every) for v in point.solution.evaluation.latency),
                ),
            ),
        )
        for i, (point, payload) in enumerate(zip(found.points, payloads, strict=False))
    )
    unsolved = Point(
        name=every,
        solution=Solution(
            problem=every,
            method="certified",
            status=Status.INFEASIBLE,
            stopped=every,
            minimum_values=(MinimumValue(limit=every, value=1.0, unit=every),),
        ),
    )
    references = tuple(
        Reference(
            row=Row(name=payload, table=table, predicted_ms=9.0 + i, measured_ms=8.0 + i, status=every),
            objective=1000.0 + 50 * i,
            top1_percent=50.0,
            top1_source=payload,
        )
        for i, payload in enumerate(payloads)
    )
    tables = tuple(
        replace(each, name=every, path=every, sha256=every, notes=(every,), measured_on=every) for each in found.tables
    )
    return replace(
        found,
        name=every,
        points=(*points, unsolved),
        references=references,
        tables=tables,
        commands=tuple(payloads),
        notes=(every,),
        versions=((every, every),),
    )


@pytest.fixture(scope="session")
def payloads():
    """A hundred attempts to become more than text."""
    return PAYLOADS
