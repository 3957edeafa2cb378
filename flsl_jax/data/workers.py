"""How spawned worker processes behave: off the accelerator, deaf to the keyboard, gone with their parent."""

import multiprocessing
import os
import signal
import sys
import threading


def start_worker(*_: int) -> None:
    """Initialises a spawned worker process.

    It never touches an accelerator, which belongs to the training process; it leaves SIGINT and SIGTERM, which a
    terminal or a cluster sends to the whole process group, to its parent; and it ends when the parent is gone, however
    that ended. Arguments, such as grain's worker index and count, have no influence.
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
