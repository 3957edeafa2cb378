"""What is said of a source of images: what it reads, and nothing of the keys that other sources have."""

import pytest

from flsl_jax.config import SourceConfig, describe_source


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"name": "folder", "root": "/photos"}, "folder /photos"),
        ({"name": "folder", "root": "/photos", "limit": 1000}, "folder /photos, the first 1,000 images"),
        ({"name": "shards", "root": "/shards"}, "shards in /shards"),
        ({"name": "list", "root": "/all.csv"}, "the list /all.csv"),
        ({"name": "tar", "root": "/a.tar,/b.tar"}, "tar files of /a.tar,/b.tar"),
        ({"name": "video", "root": "/clips", "frame_stride": 25}, "frames of /clips, every 25th"),
        ({"name": "video", "root": "/clips"}, "frames of /clips"),
        ({"name": "huggingface", "root": "/saved"}, "huggingface /saved, split train"),
        ({"name": "auto", "root": "/photos,/all.csv"}, "/photos,/all.csv"),
        ({"name": "tfds", "dataset": "imagenet2012", "split": "validation"}, "tfds imagenet2012, split validation"),
        ({"name": "scenes"}, "6,400 synthetic scenes of 80 px"),
        ({"name": "scenes", "scene_kind": "textures", "limit": 50}, "50 synthetic scenes of 80 px (textures)"),
    ],
)
def test_a_source_is_described_by_what_it_reads(values, expected):
    assert describe_source(SourceConfig(**{"count": 6400, "scene_size": 80} | values)) == expected
