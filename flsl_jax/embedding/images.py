"""The images to embed, from one word: a folder, shards, a file, a list of files, or the embedded scenes."""

import dataclasses

from flsl_jax.config import SourceConfig
from flsl_jax.data.records import Source
from flsl_jax.data.sources.opening import open_any, open_source
from flsl_jax.errors import UserError

_SCENES = 64


def open_images(spec: str, *, limit: int, scene_size: int, config: SourceConfig | None = None) -> Source:
    """Opens images for reading, in a fixed order.

    Args:
        spec: folders of images at any depth, folders of shards of `flsl prepare`, image files, files that list images, with
            commas between them; or "scenes" or "scenes:textures".
        limit: images at most; 0: all.
        scene_size: height and width of scenes in pixels.
        config: whose other keys are used, such as `pages`; None: the defaults.

    Raises:
        UserError: there is no such thing, or no image in it.
    """
    name, _, kind = spec.partition(":")
    if name == "scenes":
        if kind not in ("", "hues", "textures"):
            raise UserError(f"--images={spec}: there are scenes:hues and scenes:textures")
        values = {"count": limit or _SCENES, "scene_size": scene_size, "scene_kind": kind or "hues", "split": "test"}
        return open_source(SourceConfig(name="scenes", **values))
    try:
        return open_any(spec, config=dataclasses.replace(config or SourceConfig(), limit=limit))
    except UserError as error:
        raise UserError(f"--images={spec}: {error}") from error
