"""The servers that the platform is compared with, the provider that its actions call, and who takes its
traces."""

from .base import Server, uvicorn


class Noop(Server):
    """A raw ASGI function that stores nothing."""

    name = "noop"

    def command(self) -> list[str]:
        return uvicorn("benchmarks.apps.noop", self.port)


class _Storing(Server):
    """A server with an application for each database."""

    def command(self) -> list[str]:
        database = "" if self.place.url is None else "_postgres"
        return uvicorn(f"benchmarks.apps.{self.name}{database}", self.port)

    def environment(self) -> dict[str, str]:
        return self.place.for_comparison()


class GroupCommit(_Storing):
    """The bare server: raw ASGI, raw body, one commit for all that wait."""

    name = "group_commit"


class CommitPerRequest(_Storing):
    """FastAPI and SQLAlchemy, one commit per request."""

    name = "commit_per_request"


class Collector(Server):
    """Takes the platform's traces."""

    name = "collector"

    def command(self) -> list[str]:
        return uvicorn("benchmarks.apps.collector", self.port)


class Provider(Server):
    """Does at once what actions ask for."""

    name = "provider"

    def command(self) -> list[str]:
        return uvicorn("benchmarks.apps.provider", self.port)
