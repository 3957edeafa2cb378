"""How worker processes behave: they do not use accelerators, ignore the keyboard's signals, and end with their parent."""

import multiprocessing
import os
import signal
import sys
import threading


def start_worker(*_: int) -> None:
    """Initialises a worker process.

    The worker never uses an accelerator, which belongs to the training process. It ignores SIGINT and SIGTERM, which a terminal
    or a cluster sends to the whole process group, and leaves them to its parent. It ends when its parent is gone, however the
    parent ended. Arguments, such as grain's worker index and count, have no influence.
    """
    os.environ["JAX_PLATFORMS"] = "cpu"
    if "jax" in sys.modules:
        sys.modules["jax"].config.update("jax_platforms", "cpu")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
