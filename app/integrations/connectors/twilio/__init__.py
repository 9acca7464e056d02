"""Twilio Programmable Messaging: SMS, MMS and channels (https://www.twilio.com/docs/messaging)."""

from .connector import TwilioConnector

__all__ = ["TwilioConnector"]
