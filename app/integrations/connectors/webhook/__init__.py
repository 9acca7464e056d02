"""Anything that sends or takes webhooks: JSON in, HTTP requests out."""

from .connector import WebhookConnector

__all__ = ["WebhookConnector"]
