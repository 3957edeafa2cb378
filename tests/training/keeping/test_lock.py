"""Two runs in one workdir: the second is refused; what a dead one left is taken over."""

import json
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from flsl_jax.errors import UserError
from flsl_jax.loop import train
from flsl_jax.training.keeping import lock_file as lock_module
from flsl_jax.training.keeping.lock import locked
from flsl_jax.training.keeping.lock_file import LOCK_FILE, user_of
from tests.tiny import tiny_config


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(lock_module, "BEAT", 0.05)
    monkeypatch.setattr(lock_module, "DEAD_AFTER", 0.6)


def leave(workdir, **owner):
    values = {"host": socket.gethostname(), "process": os.getpid(), "born": "", "token": "another"} | owner
    workdir.mkdir(exist_ok=True)
    (workdir / LOCK_FILE).write_text(json.dumps(values))


def test_a_second_one_is_refused_as_long_as_the_first_holds_it(tmp_path):
    with locked(tmp_path / "run"):
        message = rf"run is in use by process {os.getpid()} on {socket.gethostname()}; end that"
        with pytest.raises(UserError, match=message), locked(tmp_path / "run"):
            pass
        assert (tmp_path / "run" / LOCK_FILE).exists()
    assert not list((tmp_path / "run").iterdir())
    with locked(tmp_path / "run"):
        pass


def test_a_process_of_this_machine_that_lives_keeps_it_and_a_dead_one_does_not(tmp_path, caplog):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    leave(tmp_path, process=process.pid, born=lock_module._birth(process.pid))
    with pytest.raises(UserError, match=f"in use by process {process.pid}"), locked(tmp_path):
        pass
    process.kill()
    process.communicate()
    with locked(tmp_path):
        assert f"was left locked by process {process.pid} on {socket.gethostname()}, which is gone" in caplog.text


def test_another_process_with_the_number_of_a_dead_one_does_not_count(tmp_path):
    for dead in ({"process": os.getppid(), "born": "long ago"}, {"process": os.getpid()}):  # a container started again
        leave(tmp_path, **dead)
        with locked(tmp_path) as lock:
            lock.check()
            assert json.loads((tmp_path / LOCK_FILE).read_text())["born"] == lock_module._birth(os.getpid())


def test_a_process_of_another_machine_is_known_by_its_signs_of_life(tmp_path):
    leave(tmp_path, host="another")
    ended = threading.Event()

    def beat():
        while not ended.wait(0.05):
            os.utime(tmp_path / LOCK_FILE)

    thread = threading.Thread(target=beat)
    thread.start()
    with pytest.raises(UserError, match=r"in use by process \d+ on another"), locked(tmp_path):
        pass
    ended.set()
    thread.join()
    with locked(tmp_path):
        pass


def test_a_damaged_lock_without_signs_of_life_is_taken_over(tmp_path):
    (tmp_path / LOCK_FILE).write_text("{")
    with locked(tmp_path) as lock:
        lock.check()
        assert json.loads((tmp_path / LOCK_FILE).read_text())["process"] == os.getpid()


def test_of_many_that_start_at_once_one_gets_it(tmp_path):
    leave(tmp_path, process=os.getppid(), born="long ago")
    got, refused, go = [], [], threading.Barrier(8)

    def start():
        go.wait()
        try:
            with locked(tmp_path):
                got.append(1)
                time.sleep(0.5)
        except UserError:
            refused.append(1)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused)) == (1, 7)


def test_it_shows_signs_of_life_and_notices_a_take_over(tmp_path):
    with locked(tmp_path) as lock:
        path = tmp_path / LOCK_FILE
        before = path.stat().st_mtime_ns
        time.sleep(0.3)
        assert path.stat().st_mtime_ns > before
        lock.check()
        leave(tmp_path, host="another", process=7)
        with pytest.raises(UserError, match="was taken over by process 7 on another"):
            lock.check()
    assert path.exists(), "the other one's"


def test_a_run_is_refused_in_a_workdir_that_is_in_use(tmp_path):
    with locked(tmp_path), pytest.raises(UserError, match="is in use by process"):
        train(tiny_config(), workdir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_who_uses_a_workdir_is_read_without_touching_it(tmp_path):
    assert user_of(tmp_path) is None
    with locked(tmp_path):
        assert user_of(tmp_path) == f"process {os.getpid()} on {socket.gethostname()}"
    leave(tmp_path, process=2**22 + 1)
    assert user_of(tmp_path) is None
    leave(tmp_path, host="elsewhere", process=7)
    before = (tmp_path / LOCK_FILE).stat().st_mtime_ns
    assert user_of(tmp_path) == "process 7 on elsewhere"
    assert (tmp_path / LOCK_FILE).stat().st_mtime_ns == before
