"""What a measurement keeps: read again to the last bit, or not at all."""

import pytest

from flsl_jax.errors import UserError
from flsl_jax.transfer.judging.measurement import Measurement, read_measurement, write_json

DETECTIONS = [{"image_id": 3, "category_id": 1, "bbox": [0.1, 1 / 3, 2.0, 3.0], "score": 0.7000000476837158}]
PIXELS = {"confusion": [[3, 1], [0, 2]], "images": [{"index": 0, "name": "a", "miou": 1 / 3, "aacc": 0.5}]}
METRICS = {"miou": 1 / 7}


def kept(folder, **values):
    measurement = Measurement(metrics=METRICS, **values)
    measurement.save(folder)
    write_json(folder / "result.json", {"step": 8, "metrics": METRICS})
    return measurement


@pytest.mark.parametrize("values", [{"detections": DETECTIONS}, {"detections": []}, {"pixels": PIXELS}])
def test_it_is_read_as_it_was_saved(tmp_path, values):
    assert read_measurement(tmp_path, step=8) is None
    measurement = kept(tmp_path, **values)
    assert read_measurement(tmp_path, step=8) == measurement
    assert read_measurement(tmp_path, step=9) is None


def test_a_confusion_matrix_is_one_of_numbers(tmp_path):
    kept(tmp_path, pixels=PIXELS)
    again = read_measurement(tmp_path, step=8)
    assert again.confusion.tolist() == PIXELS["confusion"]


@pytest.mark.parametrize("name", ["result.json", "detections.json"])
@pytest.mark.parametrize("content", [None, "{", "{}"])
def test_what_is_gone_or_damaged_is_measured_again(tmp_path, name, content):
    kept(tmp_path, detections=DETECTIONS)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_text(content)
    assert read_measurement(tmp_path, step=8) is None


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="name a --workdir that can"):
        write_json(tmp_path / "file" / "result.json", {})
