"""XML elements from values, whatever they hold."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

# XML 1.0 has no way to write these.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


def add_element(parent: ElementTree.Element, tag: str, text: object = "") -> ElementTree.Element:
    element = ElementTree.SubElement(parent, tag)
    element.text = xml_text(text)
    return element


def xml_text(value: object) -> str:
    """Control characters, which XML cannot hold, become the replacement character."""
    return _FORBIDDEN.sub("\ufffd", str(value))


def pretty(element: ElementTree.Element, level: int = 0) -> str:
    """The element indented by two spaces a level, with a last line break."""
    ElementTree.indent(element, level=level)
    return ElementTree.tostring(element, encoding="unicode").rstrip() + "\n"
