"""The processes of a run meet, in one event loop: who comes, who is refused, who is lost. JAX has no part in it."""

import asyncio

import pytest

from flsl_jax.errors import UserError
from flsl_jax.processes import words
from flsl_jax.processes.hub import Hub
from flsl_jax.processes.introduction import first_difference, introduction
from flsl_jax.processes.member import Member
from flsl_jax.processes.place import Place
from tests.processes.commands import free_port
from tests.tiny import tiny_config


class Run:
    """Processes of a run that meet here. `ends`: why one had to end, by its number."""

    def __init__(self, folder, *, count):
        self.folder, self.count, self.port = folder, count, free_port()
        self.ends, self.sides, self.opened = {}, {}, []

    def side(self, number, *, count=None, described=None):
        async def on_end(code, why):
            self.ends[number] = (code, why)

        place = Place(coordinator=f"127.0.0.1:{self.port}", count=count or self.count, number=number)
        self.sides[number] = (Member if number else Hub)(
            place, described or DESCRIBED, service=self.folder / f"{len(self.opened)}", on_end=on_end
        )
        self.opened.append(self.sides[number])
        return self.sides[number]

    def close(self):
        for side in self.opened:
            side.close()

    async def meet(self):
        await asyncio.gather(*(self.side(number).meet(5) for number in range(self.count)))

    async def ended(self, *numbers):
        async with asyncio.timeout(5):
            while set(numbers) - self.ends.keys():
                await asyncio.sleep(0.01)


DESCRIBED = introduction(tiny_config())


def in_a_run(check, folder, *, count):
    """Runs a coroutine of a `Run`."""

    async def whole():
        run = Run(folder, count=count)
        try:
            await check(run)
        finally:
            run.close()
            await asyncio.sleep(0.01)

    asyncio.run(whole())


async def refusals(*meetings):
    """The messages of meetings that are refused."""
    found = await asyncio.gather(*meetings, return_exceptions=True)
    assert all(isinstance(error, UserError) for error in found), found
    return [str(error) for error in found]


def test_all_meet_in_any_order_and_nobody_is_lost_by_ending_well(tmp_path):
    async def check(run):
        late = [asyncio.ensure_future(run.side(number).meet(5)) for number in (2, 1)]
        await asyncio.sleep(0.1)
        await asyncio.gather(run.side(0).meet(5), *late)
        for number in (2, 0, 1):
            await run.sides[number].tell_end(0, "")
        run.sides[2]._writer.close()
        await asyncio.sleep(0.1)
        assert run.ends == {}

    in_a_run(check, tmp_path, count=3)


def test_who_is_missing_is_said_to_those_who_came(tmp_path):
    async def check(run):
        first, second = await refusals(run.side(0).meet(0.3), run.side(2).meet(5))
        assert first == second
        assert f"process 0 of 4 waited 0.3 s at 127.0.0.1:{run.port}, and processes 1 and 3 did not come" in first
        assert "(process 2 did)" in first

    in_a_run(check, tmp_path, count=4)


def test_one_that_waits_less_long_says_who_is_missing(tmp_path):
    async def check(run):
        first = asyncio.ensure_future(run.side(0).meet(5))
        (message,) = await refusals(run.side(1).meet(0.3))
        assert "process 1 of 3 (on " in message
        assert ") waited 0.3 s for process 2; check that all 3 were started" in message
        await asyncio.gather(run.side(1).meet(5), run.side(2).meet(5), first)

    in_a_run(check, tmp_path, count=3)


@pytest.mark.parametrize(
    ("number", "told", "message"),
    [
        (1, 2, "was told of 2 processes, process 0 of 3"),
        (2, 3, "two processes have the number 2, process 2 of 3 ("),
    ],
)
def test_wrong_numbers_are_refused(tmp_path, number, told, message):
    async def check(run):
        meetings = [asyncio.ensure_future(run.side(other).meet(5)) for other in (0, 2)]
        await asyncio.sleep(0.2)
        refused = await refusals(run.side(number, count=told).meet(5), *meetings)
        assert len(set(refused)) == 1
        assert message in refused[0]

    in_a_run(check, tmp_path, count=3)


def test_one_that_comes_to_a_run_that_has_begun_waits_for_the_next(tmp_path):
    async def check(run):
        await run.meet()
        (message,) = await refusals(run.side(1).meet(0.5))
        assert "(it is in a run that began without this one)" in message
        assert run.ends == {}

    in_a_run(check, tmp_path, count=2)


def test_what_is_no_process_of_the_run_does_not_disturb_it(tmp_path):
    async def check(run):
        first = asyncio.ensure_future(run.side(0).meet(5))
        await asyncio.sleep(0.1)
        for text in (b"GET / HTTP/1.1\r\n\r\n", b"\xff\n", b'{"kind": "other"}\n', b""):
            _, writer = await asyncio.open_connection("127.0.0.1", run.port)
            writer.write(text)
            writer.close()
        await asyncio.gather(first, run.side(1).meet(5))

    in_a_run(check, tmp_path, count=2)


def test_the_error_of_one_ends_all_with_its_words_and_its_code(tmp_path):
    async def check(run):
        await run.meet()
        await run.sides[1].tell_end(2, "nowhere is no folder")
        await run.ended(0, 2)
        assert run.ends.keys() == {0, 2}
        for code, why in run.ends.values():
            assert code == 2
            assert why.startswith("process 1 of 3 (")
            assert why.endswith(") ended: nowhere is no folder")

    in_a_run(check, tmp_path, count=3)


def test_the_error_of_the_first_ends_all(tmp_path):
    async def check(run):
        await run.meet()
        await run.sides[0].tell_end(2, "no room")
        await run.ended(1, 2)
        assert run.ends == dict.fromkeys((1, 2), (2, "process 0 of 3 ended: no room"))

    in_a_run(check, tmp_path, count=3)


def test_a_machine_that_falls_silent_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(words, "TICK", 0.01)
    monkeypatch.setattr(words, "LOST_AFTER", 20)

    async def check(run):
        await run.meet()
        await asyncio.sleep(0.4)
        assert run.ends == {}
        for task in run.sides[2]._running:
            task.cancel()
        await run.ended(0, 1)
        assert {code for code, _ in run.ends.values()} == {75}
        assert all("process 2 of 3 (" in why and "no sign of life for 20 s" in why for _, why in run.ends.values())

    in_a_run(check, tmp_path, count=3)


def test_the_first_difference_that_matters_is_named():
    other = introduction(tiny_config(seed=4, compute={"workers": 3}, parallel={"process_id": 1}))
    assert "process 1 has config.seed = 4, process 0 has 0" in first_difference(DESCRIBED, other, name="process 1")
    same = introduction(tiny_config(compute={"workers": 3}, parallel={"process_id": 1}, logging={"every_steps": 3}))
    assert first_difference(DESCRIBED, same, name="process 1") is None
    older = DESCRIBED | {"versions": DESCRIBED["versions"] | {"jaxlib": "0.1"}}
    assert "process 1 has jaxlib 0.1, process 0 has " in first_difference(DESCRIBED, older, name="process 1")
    edited = DESCRIBED | {"versions": DESCRIBED["versions"] | {"code": "ab"}}
    assert "process 1 has another code of flsl_jax (ab) than" in first_difference(DESCRIBED, edited, name="process 1")
