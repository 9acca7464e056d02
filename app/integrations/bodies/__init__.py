"""Body declarations: how the bytes of a request become items.

JsonObject, JsonArray   one object; an array of items
Form                    flat, with nested brackets, or with JSON in one field
Multipart               fields and files
Xml                     elements as plain values
ByContentType           one of these, by the request's content type
"""

from .choice import ByContentType
from .forms import Form, Multipart
from .json import MAX_DEPTH, MAX_INTEGER, MIN_INTEGER, Body, JsonArray, JsonObject, decode_json
from .xml import Xml

__all__ = [
    "MAX_DEPTH",
    "MAX_INTEGER",
    "MIN_INTEGER",
    "Body",
    "ByContentType",
    "Form",
    "JsonArray",
    "JsonObject",
    "Multipart",
    "Xml",
    "decode_json",
]
