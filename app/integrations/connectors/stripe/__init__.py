"""Stripe: payments, customers, invoices, subscriptions (https://docs.stripe.com/api)."""

from .connector import StripeConnector

__all__ = ["StripeConnector"]
