"""Which values of files with more than 8 bits become black and white in a run: settled when it begins, kept when it goes on."""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

from flsl_jax import parallel
from flsl_jax.config import Config
from flsl_jax.config.channels import AUTO, read_window, write_window
from flsl_jax.data.images.levels import decoding_of
from flsl_jax.data.records import Source
from flsl_jax.data.sources.survey import Survey, check_readable, survey

log = logging.getLogger(__name__)


def with_window(config: Config, found: Survey, *, saved: Mapping[str, Any] | None = None) -> Config:
    """The config with the two values of `data.window` in place of "auto". All processes must call it.

    Args:
        config: a checked configuration.
        found: a look at its images.
        saved: the description of the run in the checkpoint that it continues from, whose values are kept; None: it begins.
    """
    text = config.data.window
    if text == AUTO:
        before = None if saved is None else saved["config"]["data"].get("window", "")
        text = parallel.of_every_process(_measured(found))[0] if before is None else before
    window = read_window(text)
    text = "" if window is None else write_window(*window)
    return dataclasses.replace(config, data=dataclasses.replace(config.data, window=text))


def settled_images(config: Config, source: Source, *, saved: Mapping[str, Any] | None = None) -> Config:
    """Looks at a sample of the images, says what a person should know of them, and settles the window; see `with_window`.

    Raises:
        UserError: no image of the sample can be read with the window and the channels.
    """
    found = survey(source)
    settled = with_window(config, found, saved=saved)
    check_readable(source, decoding_of(settled.data))
    if not settled.data.window and found.dark():
        log.warning("%s; %s", found.dark(), advice(found))
    if found.pages and config.data.pages == "first":
        log.warning("%s: the first of each is read; config.data.pages=all makes every page an image", found.paged())
    return settled


def advice(found: Survey) -> str:
    """What to do about dark files."""
    high = max(file.high for file in found.deep)
    return f"set config.data.window=0,{high:.0f}, or auto (docs/data.md, Bands and levels)"


def _measured(found: Survey) -> str:
    window = found.window()
    if window is None:
        log.warning(
            "config.data.window=auto: none of %d files looked at has more than 8 bits and several values; 16 bits would be "
            "scaled whole",
            found.seen,
        )
        return ""
    log.info(
        "config.data.window=auto: %s, by %d of %d files looked at; it is written into the run's config",
        write_window(*window),
        len(found.deep),
        found.seen,
    )
    return write_window(*window)
