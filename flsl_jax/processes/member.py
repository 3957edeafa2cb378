"""The side of every process but the first: it finds process 0, says what it is, and watches that the run goes on."""

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from flsl_jax.errors import STOPPED_EARLY, UserError, first_line
from flsl_jax.processes import words
from flsl_jax.processes.messages import LIMIT, pass_on, receive, send
from flsl_jax.processes.place import Place
from flsl_jax.processes.words import advice, lost, named

log = logging.getLogger(__name__)

_AGAIN = 0.2


class Member:
    """A process of a run that is not the first; the arguments are those of `Hub`.

    `service` is here the socket at which this process takes JAX's traffic for process 0. It is kept open when process 0 is
    gone, because JAX would abort before this process could say what has happened.
    """

    def __init__(
        self,
        place: Place,
        described: Mapping[str, Any],
        *,
        service: Path,
        on_end: Callable[[int, str], Awaitable[None]],
    ) -> None:
        self._place, self._described, self._service, self._on_end = place, described, service, on_end
        self._silent, self._over = 0, False
        self._problem = "no answer"
        self._writer: asyncio.StreamWriter | None = None
        self._running: set[asyncio.Task[None]] = set()

    async def meet(self, timeout: float) -> None:
        """Waits until process 0 says that all are there.

        Raises:
            UserError: it was not found in `timeout` seconds, somebody else did not come, or this one is not like process 0.
        """
        self._server = await asyncio.start_unix_server(self._pass_on, str(self._service))
        try:
            async with asyncio.timeout(timeout):
                while not await self._try():
                    await asyncio.sleep(_AGAIN)
        except TimeoutError as error:
            raise UserError(
                f"process {self._place.number} of {self._place.count} (on {socket.gethostname()}) waited {timeout:g} s for "
                f"{self._problem}; {advice(self._place)}"
            ) from error
        self._keep(self._listen())
        self._keep(self._watch())

    async def tell_end(self, code: int, why: str) -> None:
        """Says to process 0 that this process ends, and why if it fails."""
        self._over = self._over or bool(code)
        await send(self._writer, kind="end", code=code, why=why)

    def close(self) -> None:
        """Hangs up, without a word."""
        self._server.close()
        for task in self._running:
            task.cancel()
        if self._writer is not None:
            self._writer.close()

    async def _try(self) -> bool:
        """Whether process 0 was found and the run begins.

        Raises:
            UserError: process 0 refuses.
        """
        first = f"process 0 at {self._place.coordinator}"
        self._problem = f"{first} (no answer)"
        try:
            reader, writer = await asyncio.open_connection(self._place.host, self._place.port, limit=LIMIT)
        except OSError as error:
            self._problem = f"{first} ({_reason(error)})"
            return False
        try:
            begins = await self._introduce(reader, writer, first=first)
        except BaseException:
            writer.close()
            raise
        if begins:
            self._reader, self._writer = reader, writer
        else:
            writer.close()
        return begins

    async def _introduce(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, first: str) -> bool:
        place = self._place
        introduced = {"number": place.number, "count": place.count, "host": socket.gethostname()}
        await send(writer, kind="member", **introduced, described=self._described)
        while (message := await receive(reader)) is not None:
            kind = message.get("kind")
            if kind == "start":
                return True
            if kind == "refused":
                raise UserError(message["why"])
            if kind == "missing":
                self._problem = named(message["processes"]) if message["processes"] else first
            if kind == "begun":
                self._problem = f"{first} (it is in a run that began without this one)"
                break
        return False

    async def _listen(self) -> None:
        while (message := await receive(self._reader)) is not None:
            self._silent = 0
            if message.get("kind") == "end":
                self._over = True
            if message.get("kind") == "over":
                await self._end(message["code"], message["why"])
        await self._end(STOPPED_EARLY, lost(self._first))

    async def _watch(self) -> None:
        """Once a second, as `Hub` does."""
        ticks = 0
        while True:
            await asyncio.sleep(words.TICK)
            ticks += 1
            if ticks % words.BEAT == 0:
                await send(self._writer, kind="beat")
            self._silent += 1
            if self._silent > words.LOST_AFTER:
                await self._end(STOPPED_EARLY, lost(self._first, silent=True))

    async def _end(self, code: int, why: str) -> None:
        if not self._over:
            self._over = True
            await self._on_end(code, why)

    @property
    def _first(self) -> str:
        return f"process 0 of {self._place.count} ({self._place.host})"

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A connection of JAX in this process: to its service in process 0, and back."""
        try:
            up_reader, up_writer = await asyncio.open_connection(self._place.host, self._place.port)
        except OSError:  # process 0 is gone; who listens to it finds out
            return
        await send(up_writer, kind="service")
        self._keep(pass_on(up_reader, writer))
        await pass_on(reader, up_writer)
        up_writer.close()

    def _keep(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)


def _reason(error: OSError) -> str:
    """asyncio's own words have the address again, for each of a name's addresses."""
    if isinstance(error, socket.gaierror):
        return error.strerror or "unknown host"
    return os.strerror(error.errno) if error.errno else first_line(error)
