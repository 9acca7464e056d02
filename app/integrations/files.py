"""Files in the payloads of actions."""

import base64
import binascii

from pydantic import BaseModel, ConfigDict, Field, field_validator


class FileUpload(BaseModel):
    """A file given with its content."""

    model_config = ConfigDict(extra="forbid")

    filename: str = Field(
        min_length=1, max_length=255, pattern=r"^[^\x00-\x1f/\\]+$", description="Name with extension"
    )
    content_base64: str = Field(
        min_length=1, repr=False, description="The content in standard base64, padded, without line breaks"
    )
    content_type: str | None = Field(
        default=None,
        pattern=r"^[\w.+-]+/[\w.+-]+$",
        description="MIME type; told from the name if not set",
    )

    @field_validator("content_base64")
    @classmethod
    def _decodable(cls, value: str) -> str:
        try:
            base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("it is not standard base64 (A-Z a-z 0-9 + / with = padding)") from None
        return value

    @property
    def content(self) -> bytes:
        return base64.b64decode(self.content_base64)
