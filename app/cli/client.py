"""The API's client: one request at a time, problems raised as CommandFailed."""

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from app.errors import Problem

from .exits import CommandFailed, ExitCode, WrongUsage, exit_code_of_status

if TYPE_CHECKING:
    import httpx2

DEFAULT_URL = "http://127.0.0.1:8080"
KEY_VARIABLE = "TRUNKLINE_API_KEY"
URL_VARIABLE = "TRUNKLINE_URL"
TWIN_URL_VARIABLE = "TRUNKLINE_TWIN_URL"
ADMIN_KEY_FILE = "admin.key"
TENANT_HEADER = "Trunkline-Tenant"
DEFAULT_DATA_DIR = "~/.trunkline"
TIMEOUT = 30.0
HTTP_UNAUTHENTICATED = 401
PAGE = 1000
"""Most items that the API puts into one page."""

Query = Mapping[str, str | int | None]
Json = Any


class Api:
    """A running platform. A context manager; `open` finds the key."""

    def __init__(self, url: str, key: str, tenant: str | None = None) -> None:
        import httpx2

        headers = {"authorization": f"Bearer {key}"}
        if tenant is not None:
            headers[TENANT_HEADER] = tenant
        self.url = url.rstrip("/")
        self.key_file: Path | None = None
        """Where the key is from, or would be from without the variable; None if that is not known."""
        try:
            self.http = httpx2.Client(
                base_url=self.url,
                headers=headers,
                timeout=TIMEOUT,
                # A proxy for the outside world is no way to this machine.
                trust_env=not is_this_machine(self.url),
            )
        except (httpx2.InvalidURL, UnicodeEncodeError):
            raise WrongUsage(
                "The address, the key or the tenant cannot be put into a request.",
                f"Correct --url, --tenant or {KEY_VARIABLE}.",
            ) from None

    @classmethod
    def open(cls, url: str, *, tenant: str | None = None, data_dir: Path | None = None) -> "Api":
        """The platform at `url`, with the key of the environment or of the data folder."""
        check_address(url, f"Give --url or TRUNKLINE_URL such as {DEFAULT_URL}.")
        api = cls(url, _find_key(url, data_dir), tenant)
        api.key_file = _key_file(data_dir)
        return api

    def __enter__(self) -> "Api":
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def get(self, path: str, query: Query | None = None) -> Json:
        return self.send("GET", path, query=query)

    def post(
        self,
        path: str,
        body: Json = None,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float = TIMEOUT,
    ) -> Json:
        return self.send("POST", path, body=body, headers=headers, timeout=timeout)

    def patch(self, path: str, body: Json) -> Json:
        return self.send("PATCH", path, body=body)

    def put(self, path: str, body: Json) -> Json:
        return self.send("PUT", path, body=body)

    def delete(self, path: str) -> None:
        self.send("DELETE", path)

    def pages(self, path: str, limit: int, query: Query | None = None) -> tuple[list[Json], str | None]:
        """Up to `limit` items, and the cursor of what comes after them, if anything does."""
        items: list[Json] = []
        query = dict(query or {})
        while True:
            page = self.get(path, query | {"limit": min(limit - len(items), PAGE)})
            items += page["items"]
            if page["next"] is None or len(items) >= limit:
                return items, page["next"]
            query["after"] = page["next"]

    def send(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: Json = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = TIMEOUT,
    ) -> Json:
        """The answer's JSON, None if it has none. Raises CommandFailed."""
        import httpx2

        params = {name: value for name, value in (query or {}).items() if value is not None}
        try:
            response = self.http.request(
                method, f"/api/v1{path}", params=params, json=body, headers=headers, timeout=timeout
            )
        except httpx2.TransportError as error:
            raise self.unreachable(error) from None
        except UnicodeEncodeError:
            raise WrongUsage("What is sent must be UTF-8 text, and in headers plain ASCII.") from None
        self.check(response)
        try:
            return response.json() if response.content else None
        except ValueError:
            raise self.stranger(response) from None

    def check(self, response: "httpx2.Response") -> None:
        """Raises CommandFailed unless the answer is a success."""
        if response.is_success:
            return
        try:
            response.read()
            told = response.json()
            problems = [Problem(p["path"], p["code"], p["message"]) for p in told["problems"]]
            title, remedy = told["title"], told["remedy"]
        except (ValueError, KeyError, TypeError):
            raise self.stranger(response) from None
        if response.status_code == HTTP_UNAUTHENTICATED and self.key_file:
            raise self.unknown_key(self.key_file)
        raise CommandFailed(
            title,
            remedy,
            exit_code=exit_code_of_status(response.status_code),
            problems=problems,
            code=str(told.get("code", "")),
        )

    @property
    def where(self) -> str:
        """The address, and where it is from if that is easily forgotten."""
        from_variable = os.environ.get(URL_VARIABLE, "").rstrip("/") == self.url
        return f"{self.url} (from {URL_VARIABLE})" if from_variable else self.url

    def unknown_key(self, file: Path) -> CommandFailed:
        if not os.environ.get(KEY_VARIABLE, "").strip():
            message = f"The key in {file} is not known at {self.where}."
            remedy = f"Name that platform's data folder with --data-dir, or set {KEY_VARIABLE}."
        elif is_this_machine(self.url):
            message = f"The key in {KEY_VARIABLE} is not known here; unset it to use {file}."
            remedy = f"Asked was {self.where}."
        else:
            message = f"The key in {KEY_VARIABLE} is not known at {self.where}."
            remedy = "Correct it; it may have been revoked."
        return CommandFailed(message, remedy, exit_code=ExitCode.FORBIDDEN)

    def unreachable(self, error: Exception) -> CommandFailed:
        import httpx2

        reason = "it does not answer in time" if isinstance(error, httpx2.TimeoutException) else str(error)
        return CommandFailed(
            f"No platform answers at {self.where}: {(reason or type(error).__name__).rstrip('.')}.",
            f"Start it with `trunkline serve`, or correct {URL_VARIABLE}; unset, it is {DEFAULT_URL}."
            if self.where != self.url
            else f"Start it with `trunkline serve`, or name its address with {URL_VARIABLE} or --url.",
            exit_code=ExitCode.UNREACHABLE,
        )

    def stranger(self, response: "httpx2.Response") -> CommandFailed:
        return CommandFailed(
            f"What answers at {self.where} is not Trunkline (HTTP {response.status_code}).",
            "Check TRUNKLINE_URL or --url, and what stands between here and the platform.",
            exit_code=ExitCode.UNREACHABLE,
        )


def path_of(*parts: str) -> str:
    """A path of the API; ids are quoted. Raises CommandFailed for an empty one."""
    if not all(parts):
        raise WrongUsage("An id is empty.", "Lists show the ids that there are.")
    return "".join(f"/{quote(part, safe='', errors='replace')}" for part in parts)


def check_address(url: str, remedy: str) -> None:
    """Raises WrongUsage unless this is an http or https address."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise WrongUsage(f"{url} is not an address.", remedy)


def default_data_dir() -> Path:
    return Path(DEFAULT_DATA_DIR).expanduser()


def is_this_machine(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _key_file(data_dir: Path | None) -> Path:
    return (data_dir or default_data_dir()).expanduser() / ADMIN_KEY_FILE


def _find_key(url: str, data_dir: Path | None) -> str:
    if key := os.environ.get(KEY_VARIABLE, "").strip():
        return key
    file = _key_file(data_dir)
    if not is_this_machine(url):
        # The admin key of this machine's platform is nothing to hand to another.
        raise CommandFailed(
            f"There is no API key for {url}.",
            f"Set {KEY_VARIABLE}; {ADMIN_KEY_FILE} is used for a platform on this machine only.",
            exit_code=ExitCode.FORBIDDEN,
        )
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise CommandFailed(
            f"There is no API key: {file} cannot be read ({reason}).",
            f"Set {KEY_VARIABLE}, or name the platform's data folder with --data-dir.",
            exit_code=ExitCode.FORBIDDEN,
        ) from None
