"""The catalogue and the connections."""
