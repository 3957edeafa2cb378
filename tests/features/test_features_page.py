"""The Python of docs/features.md runs from top to bottom."""

import re
import shutil
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "features.md"


def test_its_code_runs(tiny_run, monkeypatch, tmp_path):
    shutil.copytree(tiny_run, tmp_path, dirs_exist_ok=True)
    (tmp_path / "photos").mkdir()
    shutil.copy(tmp_path / "photo.jpg", tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert len(blocks) >= 3
    names = {}
    exec("\n".join(blocks), names)
    assert names["tokens"].shape == (4, 6, 32)
    assert names["vectors"][0].shape == (32,)
