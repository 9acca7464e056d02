"""WhatsApp Cloud API: https://developers.facebook.com/documentation/business-messaging/whatsapp/."""

from .connector import WhatsAppConnector

__all__ = ["WhatsAppConnector"]
