"""A provider that does at once what it is asked, and knows how often that was."""

from .asgi import Message, Receive, Send, answer, read_body

done = 0


async def app(scope: Message, receive: Receive, send: Send) -> None:
    global done  # noqa: PLW0603 - the server's whole state
    if scope["type"] != "http":
        return
    await read_body(receive)
    if scope["method"] == "POST":
        done += 1
        await answer(send)
        return
    count = str(done).encode()
    length = (b"content-length", str(len(count)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": count})
