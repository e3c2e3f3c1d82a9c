"""The page says what the results say, refers to nothing outside, and takes no orders from names."""

import html
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import near_resnet18
import pytest

from deepmad_hw import units
from deepmad_hw.errors import StorageError
from deepmad_hw.problem.solution import MinimumValue, Solution, Status
from deepmad_hw.workflows.design.design import save_design
from deepmad_hw.workflows.report.page import page, report
from deepmad_hw.workflows.results.results import Point, Results, Row
from deepmad_hw.workflows.results.results_folder import described, load_results, write_measured

LARGEST_PAGE_BYTES = 6_000_000

OWN_TAGS = set(
    re.findall(
        r"\w+",
        """html head meta title style body div header main nav section article footer h1 h2 h3 h4 p a ul li b small span
        sup dl dt dd br code pre figure figcaption fieldset legend label input table thead tbody tr th td script
        svg g path defs use clippath rect line circle text""",
    )
)


class Found(HTMLParser):
    """Every tag of a page with its attributes."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))


def assert_harmless(text):
    """Hold a page to its own tags: one script, one style, no handler, no reference to anywhere else."""
    tags = Found(text).tags
    names = [tag for tag, _ in tags]
    assert names.count("script") == names.count("style") == 1
    assert set(names) <= OWN_TAGS
    for tag, attributes in tags:
        assert not [
            name for name in attributes if name.startswith("on") or name in ("src", "style", "action", "srcdoc")
        ]
        for name, value in attributes.items():
            if name.endswith("href"):
                assert value.startswith("#"), (tag, value)
            if name != "aria-label":  # which is read aloud and refers to nothing
                assert not re.search(r"url\((?!#)", value or ""), (tag, value)
    assert "'unsafe" not in text.split("</head>")[0]


@pytest.fixture(scope="session")
def rho_page(rho_sweep):
    return page(rho_sweep)


def test_there_are_a_hundred_attacks(payloads):
    assert len(set(payloads)) == 100


def test_the_check_of_harm_can_fail(rho_page):
    text = rho_page
    assert_harmless(text)
    for harm in (
        "<script>1</script>",
        "<p onclick=1>",
        "<a href=https://evil.example>",
        '<img src="x">',
        "<p style=x>",
    ):
        with pytest.raises(AssertionError):
            assert_harmless(text.replace("</main>", f"{harm}</main>"))


@pytest.mark.promise("T16", 100)
def test_an_attack_in_every_text_stays_text(attack, tries):
    for number in tries:
        payload, results = attack(number)
        text = page(results)
        assert_harmless(text)
        assert not payload.isprintable() or html.unescape(text).count(payload) > 20


@pytest.mark.promise("T16")
def test_a_hundred_attacks_in_every_text_stay_text(attacked, payloads):
    text = page(attacked)
    assert_harmless(text)
    shown = html.unescape(text)
    for payload in payloads:
        if payload.isprintable():
            assert payload in shown
    assert "\u202e" not in text
    assert "\x00" not in text


@pytest.mark.promise("T16")
def test_an_attacked_report_is_written_with_its_plots(attacked, tmp_path):
    written = report(attacked, tmp_path / "report.html", plots_folder=tmp_path / "plots")
    assert written.page.read_text(encoding="utf-8")
    for plot in written.plots:
        if plot.suffix == ".svg":
            elements = list(ET.parse(plot).getroot().iter())
            assert {"script", "a", "iframe", "image", "foreignObject"}.isdisjoint(e.tag.split("}")[1] for e in elements)
            assert not [name for element in elements for name in element.attrib if name.startswith("on")]


def test_a_page_tells_score_and_penalty_where_the_penalty_dwarfs_the_score(latency_sweep):
    assert "depth penalty 2" not in page(latency_sweep)
    deep = described(replace(latency_sweep.references[0].row, name="resnet101"))
    text = page(replace(latency_sweep, references=(deep,)))
    assert text.count("score 34,909, depth penalty 220,265") == 2  # in the table and beside the mark


def test_references_beside_a_calibrated_design_stand_in_its_points_or_nowhere(tmp_path):
    save_design(tmp_path / "one", near_resnet18.solution(), near_resnet18.problem())
    names = ("resnet18", "resnet34", "resnet50")
    references = [described(Row(name=name, measured_ms=9.0), objective=near_resnet18.OBJECTIVE) for name in names]
    write_measured(tmp_path / "one", [Row(name="one", measured_ms=9.0)], references, point="one")
    text = page(load_results(tmp_path / "one"))
    assert_harmless(text)
    section = re.search(r'<section id="comparison">.*?</section>', text, re.DOTALL)[0]
    assert "<th>objective in accuracy points</th>" in section
    assert "Objectives are DeepMAD" not in section
    cells = {name: re.search(rf"<th>{name}</th>.*?</tr>", section, re.DOTALL)[0] for name in names}
    worths = [units.format_objective(each.objective) for each in references[:2]]
    assert f"<td>{worths[0]}</td>" in cells["resnet18"]
    assert f"<td>{worths[1]}<br>" in cells["resnet34"]
    assert "farther out than every network" in cells["resnet34"]
    assert "<td>\N{EN DASH}</td><td>0.0" in cells["resnet50"]  # no objective, but a rho
    assert "entropy score less its depth penalty" not in text


def test_a_page_names_every_design_and_reference(latency_sweep):
    text = page(latency_sweep)
    assert_harmless(text)
    for point in latency_sweep.points:
        assert f">{point.name}</a>" in text
        assert f"{point.solution.objective:,.1f}" in text
        assert f"{point.rows[0].measured_ms:.2f}" in text
    for reference in latency_sweep.references:
        assert f"<th>{reference.row.name}</th>" in text
    assert "torchvision model zoo (resnet18, resnet34" in text
    assert text.count("not trained</td>") == 3  # beside three references there is a design
    assert "Objectives compare at equal rho only" in text
    assert "deepmad-hw design quickstart --latency table.csv=10ms" in text
    assert "3252" in text
    assert len(text.encode()) < 400_000 < LARGEST_PAGE_BYTES


def test_the_same_results_make_the_same_bytes(rho_sweep, tmp_path):
    small = replace(rho_sweep, points=rho_sweep.points[:2])
    for name in ("one", "two"):
        report(small, tmp_path / f"{name}.html", plots_folder=tmp_path / name)
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()
    for first in (tmp_path / "one").iterdir():
        assert first.read_bytes() == (tmp_path / "two" / first.name).read_bytes()


def test_a_family_over_rho_stands_side_by_side(rho_page):
    text = rho_page
    section = text[text.index('id="rho"') : text.index('id="tables"')]
    rows = re.findall(r"<tr><th>([\d.]+)</th>.*?</tr>", section, flags=re.DOTALL)
    assert rows == ["0.1", "0.2", "0.3", "0.45", "0.7", "1"]
    assert "rho_0 = 0.3 for networks like ResNet and 0.5 for mobile ones" in section
    assert "Training is an estimate" in section


def test_points_without_a_design_are_listed(rho_sweep):
    nothing = Solution(
        problem="p",
        method="certified",
        status=Status.INFEASIBLE,
        stopped="proved",
        minimum_values=(MinimumValue(limit="latency:board", value=3.5, unit="ms"),),
    )
    text = page(replace(rho_sweep, points=(Point(name="1ms", solution=nothing),)))
    assert_harmless(text)
    assert "latency:board needs at least 3.5 ms (proved)" in text


def test_results_without_anything_make_a_page():
    assert_harmless(page(Results(name="empty", points=())))


def test_a_page_that_cannot_be_written_is_one_line():
    with pytest.raises(StorageError, match=r"/nowhere/report\.html: could not be written"):
        report(Results(name="empty", points=()), Path("/nowhere/report.html"))


def test_a_plot_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "plots").write_text("a file")
    with pytest.raises(StorageError, match="the folder cannot be made"):
        report(Results(name="empty", points=()), tmp_path / "report.html", plots_folder=tmp_path / "plots")
