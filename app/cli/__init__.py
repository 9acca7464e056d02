"""The command line. `root` puts it together; every other module is one command or one group of them.

Modules import at their top only what costs little: typer, the standard library and this package. What a
command needs beyond that (the HTTP client, rich, the platform itself) is imported where it is used, so that
help and client commands stay fast.
"""
