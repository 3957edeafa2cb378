"""Without the package of an extra, a source that needs it is one line that says what to install."""

import sys

import pytest

from flsl_jax.config import SourceConfig
from flsl_jax.data.sources.opening import open_source
from flsl_jax.errors import UserError


@pytest.mark.parametrize(("name", "package"), [("video", "av"), ("huggingface", "datasets")])
def test_a_missing_package_is_one_line(name, package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / "clip.mp4").touch()
    with pytest.raises(
        UserError, match=rf"^{package} is not installed; install .* extra {name}, or pip install {package}$"
    ):
        open_source(SourceConfig(name=name, root=str(tmp_path)))
