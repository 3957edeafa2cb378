"""Lines of JSON between processes, and bytes that are passed on."""

import asyncio
import contextlib
import json
from typing import Any

# Bytes of a line, at most: one holds a config.
LIMIT = 2**20
_SENDING_SECONDS = 2.0


async def send(writer: asyncio.StreamWriter | None, **message: Any) -> None:
    """Sends a message, if there is a connection and the other side still takes any."""
    if writer is None:
        return
    with contextlib.suppress(OSError, TimeoutError):
        writer.write(json.dumps(message).encode() + b"\n")
        await asyncio.wait_for(writer.drain(), _SENDING_SECONDS)


async def receive(reader: asyncio.StreamReader) -> dict[str, Any] | None:
    """The next message; None if the other side is gone, or says something else."""
    try:
        message = json.loads(await reader.readline())
    except (OSError, ValueError):
        return None
    return message if isinstance(message, dict) else None


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Passes bytes on until one of the two ends."""
    with contextlib.suppress(OSError):
        while data := await reader.read(2**16):
            writer.write(data)
            await writer.drain()
