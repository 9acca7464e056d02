"""Trunkline: a self-hosted integration platform."""
