"""Signals and the wall clock ask for a stop."""

import concurrent.futures
import logging
import os
import signal

import pytest

from flsl_jax.training.keeping.interrupt import Interrupt


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT])
def test_a_signal_asks_for_a_stop_and_names_itself(number):
    with Interrupt() as interrupt:
        assert not interrupt.requested(1)
        os.kill(os.getpid(), number)
        assert interrupt.requested(2)
        assert interrupt.reason == number.name


@pytest.mark.parametrize("level", [logging.INFO, logging.WARNING])
def test_a_signal_is_answered_at_once_where_the_log_is_shown(capfd, level):
    logger = logging.getLogger("flsl_jax")
    before = logger.level
    logger.setLevel(level)
    try:
        with Interrupt():
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        logger.setLevel(before)
    said = "SIGTERM: stops and saves after this step; a second Ctrl-C kills\n"
    assert capfd.readouterr().err == (said if level == logging.INFO else "")


def test_a_second_interrupt_from_the_keyboard_ends_at_once():
    with Interrupt():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_more_signals_while_it_stops_change_nothing_and_ctrl_c_kills_the_second_time(capfd):
    with Interrupt() as interrupt:
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGINT):
            os.kill(os.getpid(), number)
        assert interrupt.requested(1)
        assert interrupt.reason == "SIGUSR1"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_under_nohup_a_terminal_that_closes_stops_nothing():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupt() as interrupt:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not interrupt.requested(1)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_handlers_from_before_come_back():
    before = signal.getsignal(signal.SIGTERM)
    with Interrupt():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_in_another_thread_the_wall_clock_alone_asks_for_a_stop():
    before = signal.getsignal(signal.SIGTERM)

    def stopped() -> bool:
        with Interrupt(max_hours=1e-9) as interrupt:
            return interrupt.requested(1) and signal.getsignal(signal.SIGTERM) == before

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        assert pool.submit(stopped).result()


def test_the_wall_clock_asks_for_a_stop():
    with Interrupt(max_hours=1e-9) as interrupt:
        assert interrupt.requested(1)
        assert "max_hours" in interrupt.reason
    with Interrupt(max_hours=1.0) as interrupt:
        assert not interrupt.requested(1)
