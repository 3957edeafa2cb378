"""Without PyAV, a video is one line that says what to install."""

import sys

import pytest

from flsl_jax.config import SourceConfig
from flsl_jax.data.sources import open_source
from flsl_jax.errors import UserError


def test_a_video_without_pyav_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "clip.mp4").touch()
    with pytest.raises(
        UserError, match=r"^av is not installed; install the package with its extra video, or pip install av$"
    ):
        open_source(SourceConfig(name="video", root=str(tmp_path / "clip.mp4")))
