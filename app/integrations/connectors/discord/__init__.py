"""Discord apps: https://docs.discord.com/developers/, API version 10."""

from .connector import DiscordConnector

__all__ = ["DiscordConnector"]
