"""Temporaries of computations on a CPU stay with the process."""

import os
import platform
import subprocess
import sys

import pytest

# Prints how many new pages a call touches, in the median of some, whose temporaries take 128 MiB.
_COUNT_NEW_PAGES = """
import resource, statistics, sys
import jax, jax.numpy as jnp
from flsl_jax.host_memory import keep_host_memory
if "keep" in sys.argv:
    keep_host_memory()
call = jax.jit(lambda x: jnp.sum(jax.lax.fori_loop(0, 3, lambda _, row: jnp.roll(row, 1) + x, jnp.zeros(2**24))))
x = jax.block_until_ready(jnp.float32(1))
pages = []
for _ in range(12):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    call(x).block_until_ready()
    pages.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(round(statistics.median(pages)))
"""


def new_pages(*arguments):
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", _COUNT_NEW_PAGES, *arguments]
    return int(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left alone")
def test_a_computation_takes_memory_that_the_one_before_gave_back():
    pages = 2**27 // os.sysconf("SC_PAGE_SIZE")
    assert new_pages() > pages / 2
    assert new_pages("keep") < pages / 20
