"""XML bodies, without the parts of XML that are used for attacks."""

from typing import Any
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from app.integrations.errors import InvalidBody
from app.integrations.requests import Headers

MAX_DEPTH = 50


class Xml:
    """An XML document as one item: {tag, attributes, text, children}, and its children alike.

    Names with a namespace read `{namespace}name`. Entities, DTDs and external references are refused.
    """

    def parse(self, headers: Headers, body: bytes) -> list[Any]:
        try:
            root = fromstring(body, forbid_dtd=True)
        except ParseError as error:
            line, column = error.position
            message = f"The body is not XML (line {line}, column {column})."
            raise InvalidBody("not_xml", message) from None
        except (DefusedXmlException, LookupError, ValueError):
            raise InvalidBody(
                "not_xml", "The body is XML with a DTD or entities, or an unknown encoding."
            ) from None
        return [_value(root, 0)]

    def __repr__(self) -> str:
        return "Xml()"


def _value(element: Element, depth: int) -> dict[str, Any]:
    if depth > MAX_DEPTH:
        raise InvalidBody("too_deep", f"The body nests elements deeper than {MAX_DEPTH} levels.")
    return {
        "tag": element.tag,
        "attributes": dict(element.attrib),
        "text": (element.text or "").strip(),
        "children": [_value(child, depth + 1) for child in element],
    }
