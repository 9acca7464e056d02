"""The torture bench: tries to make the platform break its promises. `make torture` runs it."""
