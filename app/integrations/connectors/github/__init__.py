"""GitHub: https://docs.github.com/rest, API version 2022-11-28, and webhooks."""

from .connector import GithubConnector

__all__ = ["GithubConnector"]
