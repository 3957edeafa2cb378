"""The first process's side: it waits for the others, compares them, watches them, and passes JAX's traffic on."""

import asyncio
import contextlib
import dataclasses
import errno
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from flsl_jax.errors import STOPPED_EARLY, UserError
from flsl_jax.processes import words
from flsl_jax.processes.introduction import first_difference
from flsl_jax.processes.messages import LIMIT, pass_on, receive, send
from flsl_jax.processes.place import Place
from flsl_jax.processes.words import advice, lost, named

log = logging.getLogger(__name__)

# Seconds: until a wait is worth a line; for a port that an earlier run still holds; for a word of who has connected.
_SAY_AFTER, _PORT_WAIT, _FIRST_WORD = 10.0, 10.0, 10.0
_POLL = 0.05


@dataclasses.dataclass
class _Member:
    """Another process: its connection, its name in messages, ticks since its last word, and whether it has ended well."""

    writer: asyncio.StreamWriter
    name: str
    silent: int = 0
    ended: bool = False


class Hub:
    """Process 0 of a run.

    Args:
        place: where it listens, and for how many.
        described: its own `introduction`.
        service: the socket at which JAX's service will listen in this process.
        on_end: called with an exit code and a reason if this process has to end because of another one.
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
        self._members: dict[int, _Member] = {}
        self._started = self._over = False
        self._refusal = ""
        self._running: set[asyncio.Task[None]] = set()

    async def meet(self, timeout: float) -> None:
        """Waits until all processes are there and have the same config.

        Raises:
            UserError: some did not come in `timeout` seconds, or one is not like this one.
        """
        loop = asyncio.get_running_loop()
        start = loop.time()
        self._server = await self._listen(min(timeout, _PORT_WAIT))
        said = False
        while (missing := self._missing()) and not self._refusal:
            if loop.time() - start > timeout:
                came = sorted(self._members)
                self._refusal = (
                    f"process 0 of {self._place.count} waited {timeout:g} s at {self._place.coordinator}, and "
                    f"{named(missing)} did not come{f' ({named(came)} did)' if came else ''}; {advice(self._place)}"
                )
                break
            if not said and loop.time() - start > _SAY_AFTER:
                said = True
                log.info("process 0 waits for %s, up to %g s", named(missing), timeout)
            await asyncio.sleep(_POLL)
        if self._refusal:
            await self._broadcast(kind="refused", why=self._refusal)
            raise UserError(self._refusal)
        self._started = True
        await self._broadcast(kind="start")
        self._keep(self._watch())

    async def tell_end(self, code: int, why: str) -> None:
        """Says to the others that this process ends, and why if it fails."""
        self._over = True
        await self._broadcast(
            kind="over" if code else "end", code=code, why=f"process 0 of {self._place.count} ended: {why}"
        )

    def close(self) -> None:
        """Hangs up, without a word."""
        self._server.close()
        for task in self._running:
            task.cancel()
        for member in self._members.values():
            member.writer.close()

    async def _listen(self, seconds: float) -> asyncio.Server:
        host, port = self._place.bind
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while True:
            try:
                return await asyncio.start_server(self._answer, host, port, limit=LIMIT)
            except OSError as error:
                if error.errno == errno.EADDRINUSE and loop.time() < end:
                    await asyncio.sleep(0.2)
                    continue
                raise UserError(
                    f"config.parallel.coordinator: process 0 cannot listen at {host or ''}:{port} "
                    f"({os.strerror(error.errno) if error.errno else error}); end what uses that port, or name another one "
                    "for all processes"
                ) from error

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A connection: of another process, or of JAX in it. What is neither is hung up on."""
        try:
            message = None
            with contextlib.suppress(TimeoutError):
                message = await asyncio.wait_for(receive(reader), _FIRST_WORD)
            if message is not None and message.get("kind") == "service":
                await self._pass_on(reader, writer)
            elif message is not None and message.get("kind") == "member":
                await self._talk(message, reader, writer)
        finally:
            writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                up_reader, up_writer = await asyncio.open_unix_connection(str(self._service))
                break
            except OSError:  # it is about to begin
                await asyncio.sleep(_POLL)
        ways = [asyncio.ensure_future(way) for way in (pass_on(reader, up_writer), pass_on(up_reader, writer))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            up_writer.close()

    async def _talk(
        self, message: Mapping[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        number = message["number"]
        name = f"process {number} of {self._place.count} ({message['host']})"
        if self._started:
            await send(writer, kind="begun")
            return
        objection = self._refusal or self._objection(message, name)
        if objection:
            self._refusal = objection
            await send(writer, kind="refused", why=self._refusal)
            return
        member = self._members[number] = _Member(writer, name)
        await self._broadcast(kind="missing", processes=self._missing())
        while message := await receive(reader) or {}:
            member.silent = 0
            if message.get("kind") == "end":
                member.ended = True
                if message["code"]:
                    await self._end(message["code"], f"{name} ended: {message['why']}")
        if not self._started:
            self._members.pop(number)
        elif not member.ended:
            await self._end(STOPPED_EARLY, lost(name))

    def _objection(self, message: Mapping[str, Any], name: str) -> str | None:
        """Why a process cannot take part; None if it can."""
        number, count = message["number"], message["count"]
        if count != self._place.count:
            told = f"was told of {count} processes, process 0 of {self._place.count}"
            return f"process {number} ({message['host']}) {told}; {advice(self._place)}"
        if number in self._members or number == 0:
            other = self._members[number].name if number else "process 0"
            return f"two processes have the number {number}, {other} and {name}; {advice(self._place)}"
        return first_difference(self._described, message["described"], name=name)

    def _missing(self) -> list[int]:
        return [number for number in range(1, self._place.count) if number not in self._members]

    async def _watch(self) -> None:
        """Once a second: counts silence in ticks of its own, so that a machine that sleeps loses nobody."""
        ticks = 0
        while True:
            await asyncio.sleep(words.TICK)
            ticks += 1
            if ticks % words.BEAT == 0:
                await self._broadcast(kind="beat")
            for member in list(self._members.values()):
                member.silent += 1
                if member.silent > words.LOST_AFTER and not member.ended:
                    await self._end(STOPPED_EARLY, lost(member.name, silent=True))

    async def _end(self, code: int, why: str) -> None:
        """Ends the run on all processes."""
        if self._over:
            return
        self._over = True
        await self._broadcast(kind="over", code=code, why=why)
        await self._on_end(code, why)

    async def _broadcast(self, **message: Any) -> None:
        await asyncio.gather(*(send(member.writer, **message) for member in list(self._members.values())))

    def _keep(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
