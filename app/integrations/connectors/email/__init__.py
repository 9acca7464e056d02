"""Email: SMTP (RFC 5321) out, IMAP (RFC 9051, RFC 3501) in."""

from .connector import EmailConnector

__all__ = ["EmailConnector"]
