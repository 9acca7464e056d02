"""What comes in from Acme, and what each action takes."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from app.integrations.inbound import ProviderId
from app.integrations.urls import BaseUrl


class AcmeSettings(BaseModel):
    """Configuration of a connection that is not secret."""

    model_config = ConfigDict(extra="forbid")

    base_url: BaseUrl = Field(
        default="https://api.acme.example",
        description="Address of the API, or of a stand-in",
    )


# What comes in.


# <inbound models>
class ItemPayload(BaseModel):
    """An item, as events have it."""

    id: ProviderId = Field(description="The item")
    title: str = Field(description="What it is called")


class Notification(BaseModel):
    """A webhook: the fields that events are made of."""

    id: ProviderId = Field(description="The notification; the same if it is sent again")
    type: Literal["item.created"] = Field(description="What happened")
    item: ItemPayload = Field(description="The item that it happened to")


# </inbound>
# Actions.


class CreateItem(BaseModel):
    """A new item."""

    model_config = ConfigDict(extra="forbid")

    title: str = Field(min_length=1, description="What it is called")


class Item(BaseModel):
    """An item, as the API has it."""

    id: str = Field(description="The item")
    title: str = Field(description="What it is called")
