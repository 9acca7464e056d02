"""Acme: say in a line what it is, and where its API is documented."""

from .connector import AcmeConnector

__all__ = ["AcmeConnector"]
