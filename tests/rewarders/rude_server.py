"""A server that answers bytes of our choosing, for what no web framework would send."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

Handle = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def rude(handle: Handle) -> AsyncIterator[str]:
    """The base URL; `handle(request, writer)` answers each, one to a connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            [length] = [line.split(b":")[1] for line in head.lower().splitlines() if line.startswith(b"content-length")]
            await handle(head + await reader.readexactly(int(length)), writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        server.close()


def head(status: str = "200 OK", length: int | None = None, **headers: str) -> bytes:
    """Status line and headers."""
    lines = [f"HTTP/1.1 {status}", "Connection: close", *(f"{k.replace('_', '-')}: {v}" for k, v in headers.items())]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    return "\r\n".join([*lines, "", ""]).encode()


def saying(body: bytes | str, status: str = "200 OK", **headers: str) -> Handle:
    """Always this body."""
    data = body.encode() if isinstance(body, str) else body

    async def handle(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(head(status, len(data), **headers) + data)

    return handle


def completion(text: str = "Yes", top: Any = None, **more: Any) -> str:
    """A whole answer; `top` is a list of (token, logprob)."""
    choice: dict[str, Any] = {"message": {"role": "assistant", "content": text}}
    if top is not None:
        entries = [{"token": token, "logprob": logprob} for token, logprob in top]
        choice["logprobs"] = {"content": [{**entries[0], "top_logprobs": entries}]}
    return json.dumps({"choices": [choice], **more})
