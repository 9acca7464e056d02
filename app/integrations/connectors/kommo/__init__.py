"""Kommo (amoCRM): https://developers.kommo.com, API v4."""

from .connector import KommoConnector

__all__ = ["KommoConnector"]
