"""Findings on machines that are not this one: what they say is put in their place."""

import importlib.metadata
import resource

import pytest

from flsl_jax.doctor import machine
from flsl_jax.doctor.finding import Examination
from tests.tiny import tiny_config

MIB = 2**20


def examined(config=None):
    exam = Examination()
    machine.examine(exam, config)
    return exam.findings


def named(name, findings):
    return [finding for finding in findings if finding.name == f"machine/{name}"]


def test_this_machine_has_a_line_for_every_check():
    findings = examined(tiny_config())
    assert {finding.name.removeprefix("machine/") for finding in findings} == {
        "python", "packages", "devices", "memory", "shared memory", "open files",
    }  # fmt: skip
    assert [finding.colour for finding in named("python", findings)] == ["green"]
    assert "8 × cpu with" in named("devices", findings)[0].found
    assert "not needed" in named("shared memory", findings)[0].found


def test_packages_outside_the_ranges_and_missing_ones_are_named(monkeypatch):
    lines = [
        "numpy>=2.0",
        "pillow>=999",
        "no-such-package-here>=1",
        'nor-this-one ; sys_platform == "another"',
        'jax[cuda13] ; extra == "cuda"',
        'not-installed ; extra == "cuda"',
    ]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: lines)
    green, red, yellow = named("packages", examined())
    assert green.found == "2 installed in the tested ranges"
    assert (red.colour, red.found) == ("red", "not installed: no-such-package-here")
    assert yellow.colour == "yellow"
    assert "pillow " in yellow.found
    assert "(tested: >=999)" in yellow.found


def test_a_checkout_that_is_not_installed_has_no_ranges(monkeypatch):
    def requires(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", requires)
    (finding,) = named("packages", examined())
    assert finding.colour == "yellow"
    assert "make install" in finding.advice


@pytest.fixture
def smi(tmp_path, monkeypatch):
    """Puts a program `nvidia-smi` that prints some lines in front of all others."""

    def install(lines):
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\ncat <<END\n{lines}\nEND\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return install


ONE = "0, NVIDIA H100 80GB HBM3, 580.65.06, 4, 81559"


def test_a_gpu_that_jax_does_not_use_is_said_with_what_to_install(smi, monkeypatch):
    smi(ONE)
    (finding,) = named("devices", examined())
    assert finding.colour == "yellow"
    assert "driver 580.65.06" in finding.found
    assert "but this machine has NVIDIA H100" in finding.found
    assert finding.advice == "JAX_PLATFORMS=cpu keeps JAX off it; unset that"
    monkeypatch.delenv("JAX_PLATFORMS")
    (finding,) = named("devices", examined())
    assert finding.advice.startswith("pip install -c requirements.txt -e '.[cuda]'")


def test_gpus_are_those_that_this_process_may_see(smi, monkeypatch):
    smi(f"{ONE}\n1, NVIDIA H100 80GB HBM3, 580.65.06, 70000, 81559\nrubbish\n2, x, y, [N/A], [N/A]")
    assert [gpu.used_mib for gpu in machine._gpus()] == [4, 70000]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert [gpu.used_mib for gpu in machine._gpus()] == [70000]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert machine._gpus() == []


def test_few_open_files_ask_for_ulimit(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, resource.RLIM_INFINITY))
    (finding,) = named("open files", examined(tiny_config(compute={"workers": 8})))
    assert (finding.colour, finding.advice) == ("yellow", "ulimit -n 576, in the shell before the command")
    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, 512))
    assert "the system allows 512" in named("open files", examined())[0].advice


def test_the_small_shared_memory_of_a_container_is_judged_for_the_workers(monkeypatch):
    monkeypatch.setattr("flsl_jax.data.loading.sharing.free_memory", lambda: 64 * MIB)
    (few,) = named("shared memory", examined(tiny_config(compute={"workers": 8})))
    (many,) = named("shared memory", examined(tiny_config(compute={"workers": 32})))
    assert (few.colour, many.colour) == ("green", "yellow")
    assert "--shm-size" in many.advice


def test_little_memory_is_yellow_and_a_containers_limit_counts(monkeypatch):
    limits = {"/sys/fs/cgroup/memory.max": ["1073741824"], "/sys/fs/cgroup/memory.current": ["536870912"]}
    monkeypatch.setattr(machine, "_words", lambda path: limits.get(path, [""]))
    (finding,) = named("memory", examined())
    assert finding.colour == "yellow"
    assert finding.found.endswith(" of 1.0 GiB of the host's memory are free")
    limits["/sys/fs/cgroup/memory.max"] = ["max"]
    assert machine.free_memory()[1] > 2**30


def test_a_containers_share_of_the_processors_counts(monkeypatch):
    monkeypatch.setattr(machine, "_words", lambda path: ["100000", "100000"])
    assert machine.cores() == 1
    monkeypatch.setattr(machine, "_words", lambda path: ["max", "100000"])
    assert machine.cores() >= 1


def test_a_system_that_says_nothing_of_its_memory_is_no_traceback(monkeypatch):
    def fail():
        raise OSError("no such thing")

    monkeypatch.setattr(machine, "_system_memory", fail)
    (finding,) = named("memory", examined())
    assert finding.colour == "yellow"
    assert "this check has itself failed (OSError: no such thing)" in finding.found
