"""Memory that computations on a CPU share over time."""

import ctypes

import jax

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_host_memory() -> None:
    """Lets computations on a CPU backend take memory that earlier ones gave back, not new pages of the system.

    XLA allocates all temporaries of a computation at once and frees them after it. glibc maps so large a piece anew every
    time, and the system clears every page of it: a quarter of a million for a step of ViT-S/16 with four images, a tenth of
    its time. Only glibc's main heap can keep it, which belongs to the main thread; computations are therefore dispatched
    there and not in the background. Call it before anything of JAX is computed, after `jax.distributed.initialize`.

    Where an accelerator computes, or the C library is another one, memory is left alone.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    library = ctypes.CDLL(None)
    if jax.default_backend() == "cpu" and hasattr(library, "mallopt"):
        library.mallopt(_M_MMAP_MAX, 0)
        library.mallopt(_M_TRIM_THRESHOLD, -1)
