"""A plot's SVG as part of the page: themed by the page's style, its marks links that a keyboard reaches. Layer 4."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping

from deepmad_hw.workflows.report import figures
from deepmad_hw.workflows.report.figures import Plot

MARK = re.compile(r"(?P<series>p50|p99|all)-mark-(?P<key>[dr]\d+)")
SERIES = re.compile(r"(?P<series>p50|p99)-(line|bar)")
HIT_RADIUS = "11"
# What is drawn in a colour of paper takes the page's own, which knows light, dark and print.
VARIABLES = {
    figures.INK: "var(--ink)",
    figures.MUTED: "var(--muted)",
    figures.GRID: "var(--grid)",
    figures.PAPER: "var(--paper)",
    figures.BLUE: "var(--blue)",
    figures.ORANGE: "var(--orange)",
    figures.GREEN: "var(--green)",
    figures.PURPLE: "var(--purple)",
    figures.GREY: "var(--grey)",
}
# Style as attributes: a page whose policy allows no inline style still draws them.
ATTRIBUTES = {
    *("fill", "stroke", "stroke-width", "stroke-linejoin", "stroke-linecap", "stroke-dasharray", "stroke-dashoffset"),
    *("opacity", "fill-opacity", "stroke-opacity", "text-anchor", "font-size", "font-weight"),
}


def inline_svg(plot: Plot, *, title: str, labels: Mapping[str, str]) -> str:
    """Return a plot as an ``<svg>`` element for the page.

    Args:
        plot: the plot.
        title: what it shows, for people who hear it.
        labels: words of each mark by its key, such as ``d3``.
    """
    root = ET.fromstring(figures.as_svg(plot))  # noqa: S314 - written by the drawing library a line ago
    _strip(root)
    for element in list(root.iter()):
        _restyle(element)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.get("id"):
                _mark(child, labels)
    _own_ids(root, plot.name)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("class", "plot")
    root.set("role", "group")
    root.set("aria-label", title)
    return ET.tostring(root, encoding="unicode")


def _strip(root: ET.Element) -> None:
    """Drop namespaces, which a page does not need, and the file's description and style of its own."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}style")):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        for name in list(element.attrib):
            if "}" in name:
                element.set(name.rpartition("}")[2], element.attrib.pop(name))


def _restyle(element: ET.Element) -> None:
    """Turn a style into attributes, in the page's colours."""
    style = element.attrib.pop("style", "")
    for entry in filter(None, (part.strip() for part in style.split(";"))):
        name, _, value = (part.strip() for part in entry.partition(":"))
        if name == "font":
            _font(element, value)
        elif name in ATTRIBUTES:
            element.set(name, VARIABLES.get(value.lower(), value))


def _font(element: ET.Element, value: str) -> None:
    size = re.search(r"([\d.]+)px", value)
    if size:
        element.set("font-size", size[1])
    if re.search(r"\b(bold|[67]00)\b", value):
        element.set("font-weight", "600")


def _mark(element: ET.Element, labels: Mapping[str, str]) -> None:
    """Make a mark a link to its design, or a place that tells of a reference; name the series of lines and bars."""
    name = element.get("id", "")
    drawn = SERIES.fullmatch(name)
    if drawn:
        element.set("class", drawn["series"])
    found = MARK.fullmatch(name)
    used = element.find(".//use")
    if found is None or used is None:
        return
    key = found["key"]
    element.set("class", f"mark {found['series']}")
    element.set("data-key", key)
    element.set("aria-label", labels.get(key, ""))
    if key.startswith("d"):
        element.tag = "a"
        element.set("href", f"#design-{key[1:]}")
    else:
        element.set("role", "img")
        element.set("tabindex", "0")
    hit = {"class": "hit", "r": HIT_RADIUS, "cx": used.get("x", "0"), "cy": used.get("y", "0")}
    element.append(ET.Element("circle", hit))


def _own_ids(root: ET.Element, prefix: str) -> None:
    """Keep only the ids that something refers to, under the plot's own name: several plots share a page."""
    links = [(element, name) for element in root.iter() for name in element.attrib]
    referred = {
        match
        for element, name in links
        for match in re.findall(r"url\(#([^)]+)\)", element.attrib[name])
        + ([element.attrib[name][1:]] if name == "href" and element.tag == "use" else [])
    }
    for element in root.iter():
        name = element.attrib.pop("id", "")
        if name in referred:
            element.set("id", f"{prefix}-{name}")
    for element, name in links:
        value = element.attrib.get(name, "")
        if name == "href" and element.tag == "use":
            element.set(name, f"#{prefix}-{value[1:]}")
        elif "url(#" in value:
            element.set(name, value.replace("url(#", f"url(#{prefix}-"))
