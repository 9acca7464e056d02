"""The servers under test."""

from .base import BenchmarkError, Server
from .comparison import Collector, CommitPerRequest, GroupCommit, Noop, Provider
from .trunkline import Trunkline

__all__ = [
    "BenchmarkError",
    "Collector",
    "CommitPerRequest",
    "GroupCommit",
    "Noop",
    "Provider",
    "Server",
    "Trunkline",
]
