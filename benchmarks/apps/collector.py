"""A collector of traces that takes everything and keeps nothing."""

from .asgi import Message, Receive, Send, answer, read_body


async def app(scope: Message, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await read_body(receive)
        await answer(send)
