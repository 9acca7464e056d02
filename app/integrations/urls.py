"""URLs in settings, and webhook URLs that a provider lists."""

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, StringConstraints

BaseUrl = Annotated[
    str,
    StringConstraints(pattern=r"^https?://[^\s?#@]+$", max_length=2000),
    AfterValidator(lambda url: url.rstrip("/")),
]
"""The address of an API, for settings: http(s), without query, fragment or credentials; kept without the
slash at its end."""


def webhook_token(url: str) -> str:
    """The last segment of a webhook URL's path. It is unguessable, so URLs that share it are one
    connection's, whatever the public address was when the provider was told. Empty if there is none."""
    try:
        return urlsplit(url).path.rpartition("/")[2]
    except ValueError:
        return ""
