"""Connectors against emulators that others wrote: `make emulators`, not part of `make test`."""
