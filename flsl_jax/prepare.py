"""Packs images into shards: `python -m flsl_jax.prepare --input=DIR --output=DIR [--short_side=N] …`."""

import logging
import os
from pathlib import Path

from absl import flags

from flsl_jax.command_line import local_path, required, run_main, show_log
from flsl_jax.config.channels import read_window
from flsl_jax.config.source import MOST_CHANNELS
from flsl_jax.config.source_flags import define_columns
from flsl_jax.data.images.levels import Decoding
from flsl_jax.data.records import Source
from flsl_jax.data.sources.opening import open_any
from flsl_jax.data.sources.packing import pack
from flsl_jax.data.sources.shards import Manifest, verify
from flsl_jax.data.sources.survey import say_what_is_lost

_INPUT = flags.DEFINE_string(
    "input",
    None,
    "Folder of images, at any depth (JPEG, PNG, WebP, BMP, TIFF), a file that lists images (.txt, .csv, .tsv, .jsonl), "
    "tar files, videos or a Hugging Face data set on disk; several with commas between them. With one folder per class, or "
    "classes in a list, these become labels.",
)
_COLUMNS = define_columns(labels=True)
_OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "Folder to write the shards to. Train on it with --config.data.name=shards --config.data.root=OUTPUT. If the "
    "command is interrupted, the same command goes on.",
)
_SHORT_SIDE = flags.DEFINE_integer(
    "short_side",
    0,
    "Reduce larger images to this shorter side in pixels (for 224-pixel crops, 256 or more), as JPEG of quality 95. "
    "0 keeps every file as it is.",
    lower_bound=0,
)
_CHANNELS = flags.DEFINE_integer(
    "channels",
    3,
    "Bands of an image, as config.data.channels; reduced images of others than 3 are kept as arrays.",
    1,
    MOST_CHANNELS,
)
_WINDOW = flags.DEFINE_string(
    "window",
    "",
    "LOW,HIGH: of files with more than 8 bits, the values that are black and white in what --short_side reduces.",
)
_BOXES = flags.DEFINE_string(
    "boxes", None, "Bounding boxes to pack with the images: a COCO JSON file, or a folder of VOC XML files."
)
_RECORDS_PER_SHARD = flags.DEFINE_integer("records_per_shard", 1024, "Images in one file.", lower_bound=1)
_WORKERS = flags.DEFINE_integer(
    "workers", os.cpu_count() or 1, "Processes that decode and write. The result is the same for any number.", 0
)
_VERIFY = flags.DEFINE_bool("verify", False, "Only compare the shards in --output with the checksums in its manifest.")


def main() -> int:
    """Checks the flags, packs or verifies, and says what is there."""
    output = local_path(required(_OUTPUT, "shards"), flag="--output")
    show_log()
    if _VERIFY.value:
        print(f"every shard matches its checksum: {_summary(verify(output), output)}")
        return 0
    source = open_any(required(_INPUT, "photos"), config=_COLUMNS())
    decoding = Decoding(channels=_CHANNELS.value, window=read_window(_WINDOW.value, key="--window"))
    _say_what_is_lost(source, decoding)
    try:
        manifest = pack(
            source,
            output,
            short_side=_SHORT_SIDE.value,
            decoding=decoding,
            boxes=Path(_BOXES.value) if _BOXES.value else None,
            records_per_shard=_RECORDS_PER_SHARD.value,
            workers=_WORKERS.value,
        )
    except KeyboardInterrupt:
        logging.warning("interrupted; the same command goes on")
        return 130
    print(_summary(manifest, output))
    return 0


def _say_what_is_lost(source: Source, decoding: Decoding) -> None:
    """Warns before anything is written; files that are kept as they are lose nothing of their levels."""
    say_what_is_lost(
        source,
        decoding,
        window="what --short_side reduces stays so: set --window=LOW,HIGH to the values that shall be black and white"
        if _SHORT_SIDE.value
        else "",
        pages="the first of each is an image of the shards; to train on every page, leave the files as they are and set "
        "config.data.pages=all",
    )


def _summary(manifest: Manifest, output: Path) -> str:
    left_out = f", {len(manifest.skipped)} left out as unreadable" if manifest.skipped else ""
    shards = "1 shard" if len(manifest.shards) == 1 else f"{len(manifest.shards)} shards"
    return f"{manifest.count} images in {shards} in {output}{left_out}"


if __name__ == "__main__":
    run_main(main)
