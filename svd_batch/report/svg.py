"""SVG as matplotlib writes it, to SVG that can stand in the page: small, themed by classes, without styles of its own.

The page's Content-Security-Policy lets no style attribute in, many figures stand in one document, and colours follow
light and dark. So colours become classes that static/answer.css fills from the page's variables, other styles become
attributes, ids that nothing refers to go, and those that stay carry the figure's salt. Points become circles that have
titles.
"""

from __future__ import annotations

import hashlib
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from svd_batch.records import CellValue
from svd_batch.report.typeset import typeset

COLOURS = {
    "ink": "#1c1f24",
    "soft": "#5d636d",
    "line": "#dcdcd6",
    "faint": "#b9bdc4",
    "accent": "#0b62a4",
    "warm": "#b04a00",
    "paper": "#ffffff",
}
"""What the page calls its colours, and what they are in files."""

_CLASSES = {value: name for name, value in COLOURS.items()}
_NAMESPACE = re.compile(r"\{[^}]*\}")
_REFERENCE = re.compile(r"#([\w.-]+)")
_NUMBER = re.compile(r"-?\d+\.\d+")
_KEPT = {
    "fill-opacity",
    "stroke-opacity",
    "opacity",
    "stroke-width",
    "stroke-dasharray",
    "text-anchor",
    "font-size",
    "font-weight",
}
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
"""What XML has no place for, and a folder's name may have."""
_HIT_RADIUS = 10
GROUND = "ground"
"""The group id of a figure's white paper; the page has its own."""


@dataclass(frozen=True)
class Dot:
    """What a point says when it is pointed at, and which cell it shows when it is clicked."""

    text: str
    cell: Mapping[str, CellValue] | None = None
    radius_px: float = 3.2


def salt(name: str) -> str:
    """Return what makes the ids of a figure its own."""
    return "f" + hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:10]


def inline(text: str, name: str, label: str, dots: Mapping[str, Sequence[Dot]]) -> str:
    """Return a figure for the page.

    `name` is unique in the page, `label` is for those who can't see it; `dots` has the points of each group id.
    """
    root = ET.fromstring(_FORBIDDEN.sub("�", text))
    for element in root.iter():
        element.tag = _NAMESPACE.sub("", element.tag)
    used = {i for e in root.iter() for v in e.attrib.values() for i in _REFERENCE.findall(v)}
    _points(root, dots)
    _prune(root, used, salt(name))
    width, height = root.get("viewBox", "0 0 1 1").split()[2:]
    root.attrib.clear()
    view = f"0 0 {_short(width)} {_short(height)}"
    has_buttons = any(dot.cell is not None for some in dots.values() for dot in some)
    role = "group" if has_buttons else "img"  # what is in an image can't be reached
    root.attrib |= {"class": "figure", "viewBox": view, "role": role, "aria-label": typeset(label)}
    root.attrib |= {"stroke-linejoin": "round"}
    return _FORBIDDEN.sub("�", ET.tostring(root, encoding="unicode"))


def _points(root: ET.Element, dots: Mapping[str, Sequence[Dot]]) -> None:
    """Replace the markers in each named group by circles that say what they are."""
    for group in [g for g in root.iter("g") if g.get("id") in dots]:
        marks = list(group.iter("use"))
        paths = [path for path in group if path.tag == "path"]
        told = dots[group.attrib["id"]]
        group[:] = [*paths, *(_circle(mark, dot) for mark, dot in zip(marks, told, strict=True))]


def _circle(mark: ET.Element, dot: Dot) -> ET.Element:
    found = ET.Element("g", {"class": "dot"})
    if dot.cell is not None:
        found.set("data-cell", cell_json(dot.cell))
        found.set("role", "button")
    ET.SubElement(found, "title").text = typeset(dot.text)
    place = {"cx": mark.get("x", "0"), "cy": mark.get("y", "0")}
    ET.SubElement(found, "circle", {**place, "r": str(_HIT_RADIUS), "class": "hit"})
    fill = _styles(mark).get("fill", COLOURS["accent"])
    ET.SubElement(found, "circle", {**place, "r": f"{dot.radius_px:g}", "style": f"fill: {fill}"})
    return found


def cell_json(cell: Mapping[str, CellValue]) -> str:
    """Return a cell as the page's scripts read it from `data-cell`."""
    return json.dumps(dict(cell), ensure_ascii=False, separators=(",", ":"))


def _prune(element: ET.Element, used: set[str], mark: str) -> None:
    """Clean an element's children: no metadata, no groups without a purpose, attributes instead of styles."""
    children: list[ET.Element] = []
    for child in element:
        if child.tag in ("metadata", "style") or child.get("id") == GROUND:
            continue
        _clean(child, used, mark)
        _prune(child, used, mark)
        is_hollow = child.tag in ("g", "defs") and not child.attrib
        if is_hollow and child.tag == "g":
            children += list(child)
        elif not (is_hollow and not len(child)):
            children.append(child)
    element[:] = children
    element.tail = None
    if element.tag not in ("text", "title", "tspan"):
        element.text = None


def _clean(element: ET.Element, used: set[str], mark: str) -> None:
    style = _styles(element)
    classes = [c for c in (element.get("class"),) if c]
    attributes: dict[str, str] = {}
    for raw, value in element.attrib.items():
        name = _NAMESPACE.sub("", raw)
        if name == "id":
            if value in used:
                attributes["id"] = f"{mark}-{value}"
        elif name == "d":
            attributes["d"] = _path(value)
        elif name == "href" or value.startswith("url(#"):
            attributes[name] = value.replace("#", f"#{mark}-")
        elif name == "transform":
            if not value.startswith("rotate(-0 "):
                attributes[name] = _NUMBER.sub(_rounded, value)
        elif name not in ("style", "class"):
            attributes[name] = value if name in ("data-cell",) else _short(value)
    classes += [f"{kind}-{_CLASSES[style[kind]]}" for kind in ("fill", "stroke") if style.get(kind) in _CLASSES]
    attributes |= {k: v for k, v in style.items() if k in ("fill", "stroke") and v not in _CLASSES}
    attributes |= {name: value.removesuffix("px") for name, value in style.items() if name in _KEPT}
    if classes:
        attributes["class"] = " ".join(classes)
    element.attrib.clear()
    element.attrib |= attributes


def _styles(element: ET.Element) -> dict[str, str]:
    parts = (part.partition(":") for part in element.get("style", "").split(";") if ":" in part)
    return {name.strip(): value.strip() for name, _, value in parts}


def _rounded(found: re.Match[str]) -> str:
    return f"{float(found[0]):.1f}".removesuffix(".0")


def _short(value: str) -> str:
    return _rounded(found) if (found := _NUMBER.fullmatch(value)) else value


def _path(data: str) -> str:
    return " ".join(_words(data))


def _words(data: str) -> Iterator[str]:
    for word in data.split():
        yield _short(word)
