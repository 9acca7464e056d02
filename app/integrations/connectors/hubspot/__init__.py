"""HubSpot CRM: https://developers.hubspot.com/docs, API version 2026-09."""

from .connector import HubspotConnector

__all__ = ["HubspotConnector"]
