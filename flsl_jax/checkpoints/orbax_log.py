"""Orbax logs every failure as a traceback, and warns of what is meant; what matters of it this package says itself."""

import functools
import logging
import sys
import warnings
from typing import Any


@functools.cache
def silence_orbax() -> None:
    """Drops what orbax logs, through absl's logger, and what its threads raise after a read or write was given up."""
    logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)
    complain = sys.unraisablehook

    def hook(raised: Any) -> None:
        text = str(raised.exc_value)
        if text != "Event loop is closed" and not text.endswith("was never awaited"):
            complain(raised)

    sys.unraisablehook = hook
    warnings.filterwarnings("ignore", message="coroutine .* was never awaited", category=RuntimeWarning)
