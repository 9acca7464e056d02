"""Amazon SES: what becomes of sent mail, through Amazon SNS (https://docs.aws.amazon.com/ses/latest/dg)."""

from .connector import SesConnector

__all__ = ["SesConnector"]
