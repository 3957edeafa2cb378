"""Shows what a model sees: `python -m flsl_jax.visualize --model=runs/quickstart --images=scenes --output=DIR [--report]`.

It takes images of any size, and any model: a run's workdir, a checkpoint, a weight file, or a baseline to compare with. Every
picture is a PNG that is named after its image and its kind. docs/pictures.md says what each kind is for.
"""

from absl import flags

from flsl_jax.command_line import local_path, required, run_main, show_log
from flsl_jax.config import MODE_SIMILARITY
from flsl_jax.config.flags import FloatParser
from flsl_jax.config.ranges import Range
from flsl_jax.config.reading_flags import define_reading
from flsl_jax.config.source_flags import define_columns
from flsl_jax.pictures.gallery import NAMES, PictureSettings
from flsl_jax.pictures.images import parse_place

_MODEL = flags.DEFINE_list(
    "model",
    None,
    "What to show, several with commas between them: a run's workdir, WORKDIR/checkpoints/STEP, a weight file, "
    "untrained:WORKDIR, pixels:WORKDIR, or pixels (with --patch_size).",
)
_IMAGES = flags.DEFINE_string(
    "images",
    None,
    "A folder of images, one image file, a list of files, tar files, videos, a Hugging Face data set on disk, a folder of "
    'shards, several of these with commas between them, "scenes" or "scenes:textures" (embedded, synthetic). '
    "--pictures=curves needs none.",
)
_COLUMNS = define_columns()
_OUTPUT = flags.DEFINE_string("output", None, "Folder for the pictures.")
_PICTURES = flags.DEFINE_list(
    "pictures", [], f"Which pictures, of {', '.join(NAMES)}; by default all but tsne, neighbours and ratio."
)
_QUERY = flags.DEFINE_multi_string(
    "query",
    [],
    "x,y of a query place, in pixels of the image file; repeat the flag for more places. Default: three places.",
)
_SIZE = flags.DEFINE_integer("size", 0, "Shorter side of the resized images in pixels; 0: as in training.", 0, 8192)
_LIMIT = flags.DEFINE_integer("limit", 8, "Number of images at most.", lower_bound=1, upper_bound=200)
_COMPARE = flags.DEFINE_bool(
    "compare", False, "Show several models as columns of one sheet, instead of in a folder each."
)
_REPORT = flags.DEFINE_bool("report", False, "Also write report.html: training, evaluations and pictures on one page.")
_FOREGROUND = flags.DEFINE_bool("foreground", False, "Of pca: also without the background.")
_INV_TEMP = flags.DEFINE(
    FloatParser(Range(0, unit="times √D")), "inv_temp", 1.0, "Of clusters: τ of the mean shift of unit tokens, over √D."
)
_SIMILARITY = flags.DEFINE(
    FloatParser(Range(-1, 1, unit="cosine")),
    "mode_similarity",
    MODE_SIMILARITY,
    "Of clusters: from which two modes are one.",
)
_SEARCH = flags.DEFINE_string("search", "", "Of neighbours: folder of images to search; default: those of --images.")
_SEARCH_LIMIT = flags.DEFINE_integer("search_limit", 200, "Of neighbours: images searched at most.", lower_bound=1)
_PATCH_SIZE = flags.DEFINE_integer("patch_size", 0, "Patch size of --model=pixels, in pixels.", lower_bound=0)
_READING = define_reading()


def main() -> int:
    """Checks the flags and draws."""
    models = required(_MODEL, "runs/quickstart")
    images = "scenes" if _PICTURES.value == ["curves"] and not _IMAGES.value else required(_IMAGES, "scenes")
    output = local_path(required(_OUTPUT, "pictures"), flag="--output")
    settings = PictureSettings(
        places=tuple(map(parse_place, _QUERY.value)),
        foreground=_FOREGROUND.value,
        inv_temp=_INV_TEMP.value,
        mode_similarity=_SIMILARITY.value,
    )
    show_log()

    from flsl_jax.album import Album, make_album
    from flsl_jax.host_memory import keep_host_memory

    keep_host_memory()
    written = make_album(
        Album(
            models=models, images=images, columns=_COLUMNS(), output=output, pictures=_PICTURES.value,
            settings=settings, size=_SIZE.value, limit=_LIMIT.value, search=_SEARCH.value,
            search_limit=_SEARCH_LIMIT.value, patch_size=_PATCH_SIZE.value, reading=_READING(),
            compare=_COMPARE.value, report=_REPORT.value,
        )
    )  # fmt: skip
    print("\n".join(map(str, written)))
    return 0


if __name__ == "__main__":
    run_main(main)
