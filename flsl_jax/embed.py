"""Features of your images as files: `python -m flsl_jax.embed --model=runs/mine --images=photos --output=features`.

It takes any model and images of any size. What each image gets:

{features}

What is written (--format):

{formats}

Files come in shards. If the command is stopped, the same command goes on, and at most one shard is computed again. When all
is done, embedding.json in the folder says what it holds. docs/features.md has every array and column, and code that reads them.
"""

import dataclasses
import logging
import re

from absl import flags

from flsl_jax.command_line import local_path, required, run_main, show_log
from flsl_jax.config import MODE_SIMILARITY
from flsl_jax.config.flags import FloatParser
from flsl_jax.config.ranges import Range
from flsl_jax.config.reading_flags import define_reading
from flsl_jax.config.source_flags import define_columns
from flsl_jax.embedding.settings import DTYPES, FEATURES, FILE_FORMATS, EmbedSettings
from flsl_jax.errors import UserError

log = logging.getLogger("flsl_jax.embed")

# What --help prints.
__doc__ = (__doc__ or "").format(
    features="\n".join(f"  {name:<8} {meaning}" for name, meaning in FEATURES.items()),
    formats="\n".join(f"  {name:<8} {meaning}" for name, meaning in FILE_FORMATS.items()),
)

_MODEL = flags.DEFINE_string(
    "model",
    None,
    "What computes the features: a run's workdir, WORKDIR/checkpoints/STEP, a weight file (timm, DINO, DINOv2, …); or, to "
    "compare with, untrained:WORKDIR, pixels:WORKDIR, or pixels (with --patch_size).",
)
_IMAGES = flags.DEFINE_string(
    "images",
    None,
    "A folder of images at any depth, a folder of shards of `flsl prepare`, an image file, a list of files (.txt, .csv, .tsv, "
    '.jsonl), tar files, videos, a Hugging Face data set on disk, several of these with commas between them, or "scenes" '
    "(embedded, synthetic).",
)
_COLUMNS = define_columns()
_OUTPUT = flags.DEFINE_string("output", None, "Folder for the files; it is made.")
_FEATURES = flags.DEFINE_list(
    "features", ["mean"], f"Which features, of {', '.join(FEATURES)}, with commas between them."
)
_FORMAT = flags.DEFINE_enum("format", "npz", list(FILE_FORMATS), "How they are written.")
_SIZE = flags.DEFINE_integer(
    "size", 0, "Shorter side of the resized images in pixels, or the side of the crop; 0: as in training.", 0, 8192
)
_CROP = flags.DEFINE_bool(
    "crop", False, "Take the central square, so that all images have one grid, instead of the whole image."
)
_DTYPE = flags.DEFINE_enum("dtype", "float32", list(DTYPES), "Type of the vectors in the files.")
_SHARD_IMAGES = flags.DEFINE_integer("shard_images", 1024, "Images in a shard.", lower_bound=1)
_PAGES = flags.DEFINE_enum(
    "pages", "first", ["first", "all"], "Of files with several images: the first one, or each as an image, FILE#2."
)
_LIMIT = flags.DEFINE_integer("limit", 0, "Only the first so many images; 0: all.", lower_bound=0)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 64, "Images encoded at a time, over all devices; of images larger than in training, fewer.", 1
)
_PART = flags.DEFINE_string(
    "part",
    "1/1",
    "i/n makes every n-th shard, beginning with the i-th: for n commands on machines that share --output.",
)
_INV_TEMP = flags.DEFINE(
    FloatParser(Range(0, unit="inverse temperature")),
    "inv_temp",
    0.0,
    "Of mode: τ, a factor of products of tokens; 0: as in training, or for a weight file √D of unit tokens.",
)
_CLUSTER_INV_TEMP = flags.DEFINE(
    FloatParser(Range(0, unit="times √D")),
    "cluster_inv_temp",
    1.0,
    "Of cluster: τ of the mean shift of unit tokens, over √D.",
)
_SIMILARITY = flags.DEFINE(
    FloatParser(Range(-1, 1, unit="cosine")),
    "mode_similarity",
    MODE_SIMILARITY,
    "Of cluster: from which two modes are one.",
)
_PATCH_SIZE = flags.DEFINE_integer("patch_size", 0, "Patch size of --model=pixels, in pixels.", lower_bound=0)
_READING = define_reading()


def main() -> int:
    """Checks the flags, embeds, and says what is there."""
    model, images = required(_MODEL, "runs/mine"), required(_IMAGES, "photos")
    output, part = local_path(required(_OUTPUT, "features"), flag="--output"), parse_part(_PART.value)
    settings = EmbedSettings(
        features=tuple(dict.fromkeys(_FEATURES.value)), format=_FORMAT.value, size=_SIZE.value, crop=_CROP.value,
        dtype=_DTYPE.value, shard_images=_SHARD_IMAGES.value, inv_temp=_INV_TEMP.value,
        cluster_inv_temp=_CLUSTER_INV_TEMP.value, mode_similarity=_SIMILARITY.value,
    )  # fmt: skip
    show_log()

    from flsl_jax.data.sources.survey import check_readable, say_what_is_lost
    from flsl_jax.embedding.files import check_format
    from flsl_jax.embedding.images import open_images
    from flsl_jax.embedding.run import embed
    from flsl_jax.evaluation.open_model import open_model
    from flsl_jax.host_memory import keep_host_memory

    check_format(settings.format)
    keep_host_memory()
    encoder = open_model(model, patch_size=_PATCH_SIZE.value, reading=_READING()).encoder
    source = open_images(
        images,
        limit=_LIMIT.value,
        scene_size=settings.size or encoder.image_size,
        config=dataclasses.replace(_COLUMNS(), pages=_PAGES.value),
    )
    check_readable(source, encoder.decoding)
    every = _PAGES.value == "all"
    say_what_is_lost(
        source, encoder.decoding, pages="" if every else "the first of each is embedded; --pages=all takes every page"
    )
    log.info("%s, on %s", encoder.name, _devices())
    found = embed(encoder, source, output, settings, batch_size=_BATCH_SIZE.value, part=part)
    counts = [f"{found.images:,} images"]
    counts += [
        f"{count:,} {name}" for name, count in (("patches", found.patches), ("clusters", found.clusters)) if count
    ]
    left_out = f", {found.left_out:,} left out as unreadable" if found.left_out else ""
    missing = f"; {found.missing} more to come from the other parts" if found.missing else ""
    size = f"{found.bytes / 2**20:,.1f} MiB" if found.bytes >= 2**20 else f"{found.bytes / 2**10:,.1f} KiB"
    shards = "1 shard" if found.shards == 1 else f"{found.shards} shards"
    print(f"{', '.join(counts)} in {shards} in {output}, {size}{left_out}{missing}")
    return 0


def parse_part(text: str) -> tuple[int, int]:
    """The numbers of `i/n`.

    Raises:
        UserError: the text is something else, or i is not from 1 to n.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    part = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= part[0] <= part[1]:
        raise UserError(f"--part={text}: expected i/n with i from 1 to n, such as --part=2/4")
    return part


def _devices() -> str:
    import jax

    devices = jax.local_devices()
    return f"{len(devices)} × {devices[0].device_kind}"


if __name__ == "__main__":
    run_main(main)
