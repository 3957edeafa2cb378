"""The images of a config: what they are, how fast they are read, what of a sample is damaged, doubled or nearly black."""

import dataclasses
import functools
import os
import time
from collections import Counter
from collections.abc import Iterator

from flsl_jax.config import Config, SourceConfig, describe_source
from flsl_jax.data.images.image_files import size_of
from flsl_jax.data.images.listing import Listing
from flsl_jax.data.loading.pipeline import HostBatch
from flsl_jax.data.records import Source, digest_of, path_of
from flsl_jax.data.sources.boxed_source import BoxedSource
from flsl_jax.data.sources.opening import open_source
from flsl_jax.data.sources.survey import Survey, survey
from flsl_jax.doctor.finding import Examination, Finding
from flsl_jax.doctor.machine import cores
from flsl_jax.errors import UserError, one_line
from flsl_jax.training.input import open_loader
from flsl_jax.training.keeping.window import advice as window_advice
from flsl_jax.training.keeping.window import with_window
from flsl_jax.training.setup import few_images
from flsl_jax.training.setup import steps_per_epoch as count_steps
from flsl_jax.training.validation import Validation

_ADVICE = "docs/data.md says how images must lie"
# The sample ends after so many seconds or images.
_SECONDS, _IMAGES = 4.0, 2000
# Of an estimate's uncertain speed of the devices, such a share is what a step on one H200 reached (docs/planning.md).
_REACHED = 0.3
_NAMED = 3


@dataclasses.dataclass
class Sample:
    """What is known of images that were read as a training reads them, in its own order.

    `asked`: samples; `seconds`: they took, on one core; `timed`: how many those were. `damaged`: reason by record.
    `replaced`: samples that got another image. Of each record: `short_sides` in pixels, and `digests` of the content.
    """

    asked: int = 0
    timed: int = 0
    seconds: float = 0.0
    replaced: int = 0
    damaged: dict[int, str] = dataclasses.field(default_factory=dict)
    short_sides: dict[int, int] = dataclasses.field(default_factory=dict)
    digests: dict[int, str] = dataclasses.field(default_factory=dict)


def examine(exam: Examination, config: Config, *, images_per_second: float | None) -> Source | None:
    """Checks the images of a config, and returns them; None if they cannot be opened.

    Args:
        exam: is told what is found.
        config: a checked configuration.
        images_per_second: what the devices could train on at most; None: not known.
    """
    source = exam.obtain("data/images", lambda: open_source(config.data), advice=_ADVICE)
    if source is not None:
        found = survey(source)
        config = with_window(config, found)
        exam.check("data/images", lambda: _images(config, source), advice=_ADVICE)
        exam.obtain("data/batch", lambda: open_loader(config, source=source), advice=_ADVICE)
        sample = exam.obtain("data/sample", lambda: take_sample(config, source), advice=_ADVICE)
        if sample is not None:
            exam.check("data/reading", lambda: _reading(config, sample, wanted=images_per_second), advice=_ADVICE)
            exam.check("data/damaged", lambda: _damaged(config, sample, images=len(source)), advice=_ADVICE)
            exam.check("data/sizes", lambda: _sizes(config, sample), advice=_ADVICE)
            exam.check("data/copies", lambda: _copies(source, sample), advice=_ADVICE)
        exam.check("data/16 bits", lambda: _deep(config, found), advice=_ADVICE)
        exam.check("data/pages", lambda: _pages(config, found), advice=_ADVICE)
    for key, settings in _boxed(config).items():
        exam.check("data/boxes", functools.partial(_boxes, key, settings), advice=_ADVICE)
    if not any(
        finding.name == "data/boxes" and finding.colour == "red" for finding in exam.findings
    ):  # it says the same
        exam.check(
            "data/evaluation", lambda: _evaluation(config), advice="docs/evaluation.md says what each task needs"
        )
    return source


def _images(config: Config, source: Source) -> Iterator[Finding]:
    name = "data/images"
    found, total = describe_source(config.data), len(source)
    listing = _listing(source)
    if config.data.name != "scenes":
        found = f"{total:,} in {found}"
    if listing is not None:
        found += f" ({listing})"
    steps = count_steps(config, steps_per_pass=total // config.batch_size)
    if steps:
        each = config.epochs * steps * config.batch_size / total
        found += f"; {steps:,} steps an epoch, each image about {each:.3g} times in all"
    yield Finding(name=name, colour="green", found=found)
    for line in few_images(total, started=bool(config.init_from)):
        few, _, told = line.partition(". ")
        yield Finding(name=name, colour="yellow", found=few, advice=told)
    if listing is not None and listing.unusable:
        (path, kind), count = listing.unusable[0], len(listing.unusable)
        yield Finding(
            name=name,
            colour="yellow",
            found=f"passed over, because they cannot be read: {count:,}, such as {path} ({kind})",
            advice="remove or repair them, and their lines in a list",
        )


def _listing(source: Source) -> Listing | None:
    """What was found in a folder, also below the wrappers of boxes and limits."""
    inner = source
    while inner is not None and not hasattr(inner, "listing"):
        inner = getattr(inner, "_source", None)
    return getattr(inner, "listing", None)


def take_sample(config: Config, source: Source, *, seconds: float = _SECONDS, images: int = _IMAGES) -> Sample:
    """Reads the first images of a training with this config, on one core."""
    single = dataclasses.replace(
        config,
        batch_size=1,
        data=dataclasses.replace(config.data, on_corrupt="replace", max_corrupt_share=1.0),
        compute=dataclasses.replace(config.compute, workers=0),
    )
    loader = open_loader(single, source=source)
    sample, end = Sample(), time.perf_counter() + seconds
    for batch in _timed(loader.batches(0, min(images, len(source))), sample):
        sample.asked += 1
        sample.replaced += bool(batch.replaced)
        _look_at(source, int(batch.record[0]), sample)
        if time.perf_counter() > end:
            break
    sample.damaged = dict(loader.damage.records)
    return sample


def _timed(batches: Iterator[HostBatch], sample: Sample) -> Iterator[HostBatch]:
    """The batches; adds up what reading takes without the first one, which loads libraries too."""
    while True:
        start = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            return
        if sample.asked:
            sample.seconds += time.perf_counter() - start
            sample.timed += 1
        yield batch


def _look_at(source: Source, record: int, sample: Sample) -> None:
    if record in sample.digests:
        return
    item = source[record]
    if not isinstance(item.image, bytes):
        sample.digests[record] = digest_of(item.image.tobytes())
        sample.short_sides[record] = min(item.image.shape[:2])
        return
    sample.digests[record] = digest_of(item.image)
    sample.short_sides[record] = min(size_of(item.image, name=item.name))


def _reading(config: Config, sample: Sample, *, wanted: float | None) -> Finding:
    """How many images a second the workers give, beside what the devices could take."""
    name, workers, available = "data/reading", config.compute.workers, cores()
    if not sample.timed:
        return Finding(name=name, colour="green", found="too few images were read to say how fast they come")
    rate = sample.timed / sample.seconds
    used = max(1, min(workers, available))
    who = f"{workers} workers on {available} cores give" if workers else "the training process gives"
    found = f"a core reads, decodes and crops {rate:,.0f} images/s ({sample.timed:,} tried), {who} {used * rate:,.0f}"
    if wanted is None:
        return Finding(name=name, colour="green", found=found)
    found += f"; the devices train on at most {_shown(wanted)} images/s, probably on {_shown(_REACHED * wanted)}"
    if used * rate >= _REACHED * wanted:
        return Finding(name=name, colour="green", found=found)
    more = f"set config.compute.workers to {available}, " if workers < available else "take more cores, "
    return Finding(
        name=name,
        colour="yellow",
        found=f"{found}: the devices would wait",
        advice=f"{more}or pack the images with `flsl prepare --short_side=…` (docs/data.md)",
    )


def _shown(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"


def _damaged(config: Config, sample: Sample, *, images: int) -> Finding:
    """Red where the run would end, by the rule of `Damage`."""
    name, share = "data/damaged", sample.replaced / max(1, sample.asked)
    if not sample.damaged:
        return Finding(name=name, colour="green", found=f"all of {sample.asked:,} sampled images can be read")
    reasons = [one_line(reason) for reason in list(sample.damaged.values())[:_NAMED]]
    more = f" and {len(sample.damaged) - _NAMED} more" if len(sample.damaged) > _NAMED else ""
    found = f"{len(sample.damaged)} of {sample.asked:,} sampled images cannot be read ({', '.join(reasons)}{more})"
    if config.data.on_corrupt == "fail":
        told = "remove or repair them, or set config.data.on_corrupt=replace"
        return Finding(name=name, colour="red", found=f"{found}; the first one ends the run", advice=told)
    if share > config.data.max_corrupt_share and share * images > 20:
        limit = f"config.data.max_corrupt_share = {config.data.max_corrupt_share:g}"
        told = "repair or remove them, or raise that share"
        return Finding(name=name, colour="red", found=f"{found}, more than {limit} allows", advice=told)
    told = "repair or remove them; a training replaces each by another image and lists them in unreadable.txt"
    return Finding(name=name, colour="yellow", found=found, advice=told)


def _sizes(config: Config, sample: Sample) -> Iterator[Finding]:
    """A histogram of the shorter sides, by powers of two."""
    if not sample.short_sides:
        return
    total, size = len(sample.short_sides), config.views.size
    counts = Counter(side.bit_length() for side in sample.short_sides.values())
    bins = [f"{2 ** (bits - 1)}–{2**bits - 1} px {count / total:.0%}" for bits, count in sorted(counts.items())]
    found = f"shorter sides of {total:,}: {', '.join(bins)}"
    small = sum(side < size for side in sample.short_sides.values()) / total
    if small <= 0.5:
        yield Finding(name="data/sizes", colour="green", found=found)
        return
    side = sorted(sample.short_sides.values())[total // 2]
    told = "take larger images, or a config for small ones, such as tiny_imagenet"
    yield Finding(
        name="data/sizes",
        colour="yellow",
        found=f"{found}; {small:.0%} are smaller than config.views.size = {size} and would be enlarged (half have {side} px or "
        "less)",
        advice=told,
    )


def _copies(source: Source, sample: Sample) -> Iterator[Finding]:
    if not sample.digests:
        return
    first: dict[str, int] = {}
    pairs = [
        (first[digest], record)
        for record, digest in sample.digests.items()
        if first.setdefault(digest, record) != record
    ]
    among = f"among {len(sample.digests):,} of {len(source):,} images"
    if not pairs:
        yield Finding(name="data/copies", colour="green", found=f"no exact copies {among}")
        return
    one, other = (_name(source, record) for record in pairs[0])
    yield Finding(
        name="data/copies",
        colour="yellow",
        found=f"exact copies of others: {len(pairs):,} {among}, such as {one} and {other}",
        advice="remove copies: they count several times, and in an evaluation they find each other",
    )


def _deep(config: Config, found: Survey) -> Iterator[Finding]:
    if not found.deep:
        return
    name, used = "data/16 bits", [(file.low, file.high) for file in found.deep]
    low, high = min(pair[0] for pair in used), max(pair[1] for pair in used)
    told = f"files with more than 8 bits: {len(used):,} of {found.seen:,}, with values from {low:,.6g} to {high:,.6g}"
    if config.data.window:
        yield Finding(name=name, colour="green", found=f"{told}; config.data.window is {config.data.window}")
    elif found.dark():
        yield Finding(name=name, colour="yellow", found=found.dark(), advice=window_advice(found))
    else:
        yield Finding(name=name, colour="green", found=told)


def _pages(config: Config, found: Survey) -> Iterator[Finding]:
    if found.pages and config.data.pages == "first":
        told = "set config.data.pages=all, which makes every page an image"
        yield Finding(
            name="data/pages", colour="yellow", found=f"{found.paged()}: the first of each is read", advice=told
        )


def _name(source: Source, record: int) -> str:
    path = path_of(source, record)
    return f"record {record}" if path is None else one_line(path)


def _boxed(config: Config) -> dict[str, SourceConfig]:
    """The sources with boxes that a training would open, by their keys."""
    found = {"config.data": config.data}
    for task in config.evaluation.tasks if config.evaluation.every_epochs else ():
        group = getattr(config.evaluation, task)
        found |= {
            f"config.evaluation.{task}.{field.name}": getattr(group, field.name) for field in dataclasses.fields(group)
        }
    return {key: value for key, value in found.items() if isinstance(value, SourceConfig) and value.boxes}


def _boxes(key: str, settings: SourceConfig) -> Iterator[Finding]:
    """How many images have boxes; `key`: of the source in the config."""
    try:
        source = open_source(dataclasses.replace(settings, limit=0))
    except UserError as error:
        raise UserError(f"{key}: {error}") from error
    if not isinstance(source, BoxedSource):
        return
    found = f"{key}: {source.summary or f'{os.path.basename(settings.boxes)} is looked up image by image'}"
    if source.warnings:
        told = "name the annotations of these very images, all of them (docs/data.md)"
        yield Finding(name="data/boxes", colour="yellow", found=found, advice=told)
    else:
        yield Finding(name="data/boxes", colour="green", found=found)


def _evaluation(config: Config) -> Iterator[Finding]:
    """Opens the data of the tasks as a training does before its first step."""
    validation = Validation.open(config)
    if validation is not None:
        found = f"the data of {', '.join(validation.settings)} are there"
        yield Finding(name="data/evaluation", colour="green", found=found)
