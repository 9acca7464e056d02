"""The servers that the platform is compared with."""

from .base import Server, uvicorn


class Noop(Server):
    """A raw ASGI function that stores nothing."""

    name = "noop"

    def command(self) -> list[str]:
        return uvicorn("benchmarks.apps.noop", self.port)


class _Storing(Server):
    """A server with one SQLite file."""

    def environment(self) -> dict[str, str]:
        return {"BENCHMARK_DATABASE": str(self.folder / "benchmark.db")}


class GroupCommit(_Storing):
    """The bare server: raw ASGI, raw body, one commit for all that wait."""

    name = "group_commit"
    compared = True

    def command(self) -> list[str]:
        return uvicorn("benchmarks.apps.group_commit", self.port)


class CommitPerRequest(_Storing):
    """FastAPI and SQLAlchemy, one commit per request."""

    name = "commit_per_request"

    def command(self) -> list[str]:
        return uvicorn("benchmarks.apps.commit_per_request", self.port)
