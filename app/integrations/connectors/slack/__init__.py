"""Slack apps: https://docs.slack.dev/."""

from .connector import SlackConnector

__all__ = ["SlackConnector"]
