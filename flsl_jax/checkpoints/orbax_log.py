"""Orbax logs every failure as a traceback, and warns of what is meant; what matters of it this package says itself."""

import functools
import logging
import sys
from typing import Any


@functools.cache
def silence_orbax() -> None:
    """Drops what orbax logs, through absl's logger, and what its threads raise after a read or write was given up."""
    logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)
    complain = sys.unraisablehook

    def hook(raised: Any) -> None:
        if str(raised.exc_value) != "Event loop is closed":
            complain(raised)

    sys.unraisablehook = hook
