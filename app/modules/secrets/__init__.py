"""Connections' secrets, sealed."""
