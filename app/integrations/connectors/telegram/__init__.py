"""Telegram bots: https://core.telegram.org/bots/api, version 10.1."""

from .connector import TelegramConnector

__all__ = ["TelegramConnector"]
