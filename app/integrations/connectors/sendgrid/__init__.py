"""Twilio SendGrid: sending mail, and what becomes of it (https://www.twilio.com/docs/sendgrid)."""

from .connector import SendGridConnector

__all__ = ["SendGridConnector"]
