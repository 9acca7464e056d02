"""How senders sign and what they send, and what is sent out."""

import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

HeaderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}$")]
HeaderText = Annotated[str, StringConstraints(pattern=r"^[^\x00\r\n]*$", max_length=8000)]

Path = Annotated[str, StringConstraints(pattern=r"^[^.]+(\.[^.]+)*$", max_length=500)]
"""Where a value stands in JSON: names and numbers with dots between them, such as `data.items.0.id`."""

Host = Annotated[str, StringConstraints(pattern=r"^(\*\.)?[a-z0-9]([a-z0-9.:-]*[a-z0-9])?$", max_length=253)]

OWN_HEADERS = re.compile(
    r"host|connection|content-length|transfer-encoding|upgrade|expect|te|trailer|keep-alive|proxy-.*|webhook-.*",
    re.IGNORECASE,
)
"""Headers that belong to the connection, or to the signature."""


class WebhookSettings(BaseModel):
    """Configuration of a connection that is not secret."""

    model_config = ConfigDict(extra="forbid")

    scheme: Literal["standard", "hmac", "token", "none"] = Field(
        default="standard",
        description="How requests prove to be genuine: standard (Standard Webhooks), hmac (a signature of "
        "the body), token (a shared secret), none (only that they know the URL)",
    )
    header: HeaderName | None = Field(
        default=None, description="For hmac and token: the header with the signature or secret"
    )
    algorithm: Literal["sha1", "sha256", "sha512"] = Field(default="sha256", description="For hmac: its hash")
    encoding: Literal["hex", "base64"] = Field(default="hex", description="For hmac: how it is written")
    prefix: str = Field(
        default="", description="For hmac and token: what stands before it, such as sha256= or Bearer"
    )
    id_header: HeaderName | None = Field(default=None, description="The header with the message's id")
    id_path: Path | None = Field(default=None, description="Where the message's id stands in the body")
    type_header: HeaderName | None = Field(default=None, description="The header with the message's type")
    type_path: Path | None = Field(default=None, description="Where the message's type stands in the body")
    keep_headers: list[HeaderName] = Field(default=[], description="Request headers to keep in the event")
    split: bool = Field(
        default=False, description="Whether an array in the body is several messages instead of one"
    )
    allowed_hosts: list[Host] = Field(
        default=[],
        description="Hosts that requests may be sent to, such as api.example.com or *.example.com; any "
        "public one if empty",
    )
    allow_private: bool = Field(
        default=False, description="Whether requests may be sent to loopback and private networks"
    )

    @model_validator(mode="after")
    def _named_header(self) -> "WebhookSettings":
        if self.scheme in ("hmac", "token") and self.header is None:
            raise ValueError(f"the scheme {self.scheme} needs header")
        return self


# What comes in.


class CloudEvent(BaseModel):
    """The context attributes that every CloudEvent has (https://cloudevents.io, version 1.0)."""

    model_config = ConfigDict(extra="allow")

    specversion: str = Field(pattern=r"^(1\.\d+|0\.3)$")
    id: str = Field(min_length=1)
    source: str = Field(min_length=1)
    type: str = Field(min_length=1)
    data_base64: str | None = None


class MessagePayload(BaseModel):
    """A message. Of a CloudEvent, the fields are its attributes."""

    type: str | None = Field(description="Its type, if settings say where that stands")
    id: str | None = Field(description="Its id, if settings say where that stands")
    source: str | None = Field(default=None, description="Of a CloudEvent: where it happened")
    attributes: dict[str, Any] = Field(default={}, description="Of a CloudEvent: all attributes")
    headers: dict[str, str] = Field(default={}, description="The request headers that settings keep")
    data: Any = Field(default=None, description="The content: JSON, the fields of a form, or text")
    data_base64: str | None = Field(default=None, description="The content, if it is none of these")


# What goes out.


def _url(text: str) -> str:
    parts = urlsplit(text)  # ValueError, which is what a validator raises
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError("it is not an http or https URL")
    if parts.username is not None or parts.password is not None:
        raise ValueError("credentials do not belong in it; use the secret authorization, or a header")
    return text


def _headers(headers: dict[str, str]) -> dict[str, str]:
    if forbidden := sorted(name for name in headers if OWN_HEADERS.fullmatch(name)):
        raise ValueError(f"these are not yours to set: {', '.join(forbidden)}")
    return {name.lower(): value for name, value in headers.items()}


class SendRequest(BaseModel):
    """A request to send."""

    model_config = ConfigDict(extra="forbid")

    url: Annotated[str, StringConstraints(max_length=8000), AfterValidator(_url)] = Field(
        description="Where to: http or https", examples=["https://example.com/hooks"]
    )
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"] = Field(default="POST", description="How")
    headers: Annotated[dict[HeaderName, HeaderText], AfterValidator(_headers)] = Field(
        default={}, description="More headers"
    )
    json_: Any = Field(default=None, alias="json", description="Content to send as JSON")
    body: str | None = Field(
        default=None, description="Text to send as it is; say what it is in the header content-type"
    )
    timeout: float = Field(default=30, gt=0, le=60, description="Seconds to wait for the answer")

    @model_validator(mode="after")
    def _one_content(self) -> "SendRequest":
        if {"json_", "body"} <= self.model_fields_set:
            raise ValueError("give json or body")
        return self


class Answer(BaseModel):
    """What was answered."""

    status: int = Field(description="The HTTP status")
    content_type: str | None = Field(description="What the body is")
    body: Any = Field(default=None, description="The body: parsed if it is JSON, otherwise its text")
    body_base64: str | None = Field(default=None, description="The body, if it is neither")
    truncated: bool = Field(default=False, description="Whether the body was longer")
