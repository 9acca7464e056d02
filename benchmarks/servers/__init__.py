"""The servers under test, by name, in the order in which a round measures them.

The bare server and the platform are neighbours: the machine changes least between the two that are compared.
"""

from .base import BenchmarkError, Server
from .comparison import CommitPerRequest, GroupCommit, Noop
from .trunkline import Trunkline

SERVERS: dict[str, type[Server]] = {
    server.name: server for server in (Noop, CommitPerRequest, GroupCommit, Trunkline)
}

__all__ = ["SERVERS", "BenchmarkError", "Server"]
