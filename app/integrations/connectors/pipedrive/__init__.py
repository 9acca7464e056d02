"""Pipedrive: https://developers.pipedrive.com, API v2 (notes, users and webhooks: v1), webhooks v2."""

from .connector import PipedriveConnector

__all__ = ["PipedriveConnector"]
