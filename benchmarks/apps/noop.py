"""Reads the body and answers 200: what the web server itself costs."""

from .asgi import Message, Receive, Send, answer, read_body


async def app(scope: Message, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await read_body(receive)
        await answer(send)
