"""The sockets that the platform listens on."""

import socket

from app.errors import StartupError


def bind(host: str, port: int, setting: str = "port") -> socket.socket:
    """A listening socket. Raises StartupError, which names the setting, if the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol left open, asyncio would not switch Nagle's algorithm off: 40 ms for each answer.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise StartupError(
            f"Cannot listen on {host}:{port} ({error.strerror}).",
            remedy="Stop what uses it, or choose another with "
            f"TRUNKLINE_{setting.upper()} or --{setting.replace('_', '-')}.",
        ) from None
    listener.listen(2048)
    return listener


def url_of(listener: socket.socket) -> str:
    """Where a local client reaches the socket."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - not bound, only shown
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
