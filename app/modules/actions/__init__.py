"""Outbound actions with honest outcomes."""
