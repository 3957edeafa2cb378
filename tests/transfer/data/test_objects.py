"""Boxes and masks of COCO files and of scenes: what is trained on, what is left out, and what is refused by name."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")
pytest.importorskip("pycocotools")

from flsl_jax.data.sources.scenes import Scenes
from flsl_jax.errors import UserError
from flsl_jax.transfer.config import DetectionSourceConfig
from flsl_jax.transfer.data.objects import open_objects

SQUARE = [[2.0, 2.0, 10.0, 2.0, 10.0, 8.0, 2.0, 8.0]]


def annotation(number, box, **more):
    return {
        "id": number,
        "image_id": 7,
        "category_id": 44,
        "bbox": box,
        "area": 1.0,
        "iscrowd": 0,
        "segmentation": SQUARE,
    } | more


def coco(folder, annotations, *, size=(20, 12)):
    """One image of 20 × 12 with the id 7, another without objects, and categories whose ids have gaps."""
    for name in ("a.png", "b.png"):
        Image.fromarray(np.full((12, 20, 3), 90, np.uint8)).save(folder / name)
    images = [
        {"id": number, "file_name": name, "width": size[0], "height": size[1]} for number, name in ((7, "a.png"), (9, "b.png"))
    ]  # fmt: skip
    categories = [{"id": 90, "name": "toothbrush"}, {"id": 44, "name": "bottle"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "truth.json").write_text(json.dumps(content))
    return DetectionSourceConfig(root=str(folder), annotations=str(folder / "truth.json"))


def test_boxes_are_clipped_labels_contiguous_and_crowds_left_to_the_judge(tmp_path):
    config = coco(
        tmp_path,
        [
            annotation(1, [2, 2, 8, 6]),
            annotation(2, [15, 8, 10, 10], category_id=90),
            annotation(3, [0, 0, 20, 12], iscrowd=1, segmentation={"size": [12, 20], "counts": [0, 240]}),
            annotation(4, [5, 5, 0, 3]),
        ],
    )
    images = open_objects(config, path="config.data.train", masks=True)
    assert images.class_names == ("bottle", "toothbrush")
    objects = images.objects(0, masks=True)
    np.testing.assert_array_equal(objects.xyxy, [[2, 2, 10, 8], [15, 8, 20, 12]])
    np.testing.assert_array_equal(objects.labels, [1, 2])
    assert objects.masks.shape == (2, 12, 20)
    assert objects.masks[0].sum() == 48
    assert objects.masks[0, 2:8, 2:10].all()
    assert images.objects(1, masks=True).xyxy.shape == (0, 4)
    assert images.objects(1, masks=True).masks.shape == (0, 12, 20)
    assert len(images.coco.anns) == 4
    assert images.image(1).shape == (12, 20, 3)


def test_scenes_have_exact_boxes_and_masks():
    config = DetectionSourceConfig(name="scenes", count=6, scene_size=48, split="val")
    images = open_objects(config, path="config.data.train", masks=True)
    scenes = Scenes(count=6, size=48, split="val")
    for index in range(6):
        objects, truth = images.objects(index, masks=True), scenes[index].boxes
        np.testing.assert_allclose(objects.xyxy, truth.xyxy)
        np.testing.assert_array_equal(objects.labels, truth.labels + 1)
        masks = scenes.masks(index)
        for mask, label in zip(objects.masks, objects.labels, strict=True):
            assert set(masks.classes[mask == 1]) == {label}
        np.testing.assert_array_equal(objects.masks.sum(0) > 0, masks.instances > 0)
        np.testing.assert_array_equal(images.image(index), scenes[index].image)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"root": ""}, "config.data.val.root is missing; config.data.val.name=coco needs it"),
        ({"root": "{folder}/elsewhere"}, "elsewhere lacks 2 of the 2 images in .*truth.json, such as a.png"),
        ({"annotations": "{folder}/a.png"}, "not a COCO instances file"),
        ({"name": "scenes"}, "config.data.val.count is missing; config.data.val.name=scenes needs it"),
    ],
)
def test_what_does_not_belong_together_is_one_line(tmp_path, change, message):
    import dataclasses

    config = coco(tmp_path, [annotation(1, [2, 2, 8, 6])])
    changed = dataclasses.replace(config, **{key: value.format(folder=tmp_path) for key, value in change.items()})
    with pytest.raises(UserError, match=message) as refused:
        open_objects(changed, path="config.data.val", masks=False)
    assert "\n" not in str(refused.value)


def test_objects_without_masks_are_refused_where_masks_are_trained(tmp_path):
    config = coco(tmp_path, [annotation(1, [2, 2, 8, 6], segmentation=[])])
    assert len(open_objects(config, path="config.data.val", masks=False)) == 2
    with pytest.raises(UserError, match="has objects without masks; train kind=faster_rcnn"):
        open_objects(config, path="config.data.val", masks=True)


def test_an_image_of_another_size_than_its_annotations_is_refused(tmp_path):
    images = open_objects(coco(tmp_path, [], size=(40, 24)), path="config.data.val", masks=False)
    with pytest.raises(UserError, match=r"image a.png is 20×12, but its annotations are of 40×24"):
        images.image(0)


@pytest.mark.parametrize("size", [(-1, -1), (0, 12), (None, None), (20, 12)])
def test_sizes_that_the_file_lacks_are_those_of_the_images_and_a_byte_order_mark_passes(tmp_path, size):
    config = coco(tmp_path, [annotation(1, [2, 2, 8, 6]), annotation(2, [15, 8, 10, 10])], size=size)
    path = tmp_path / "truth.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    images = open_objects(config, path="config.data.train", masks=True)
    assert images.image(0).shape == (12, 20, 3)
    np.testing.assert_array_equal(images.objects(0, masks=True).xyxy, [[2, 2, 10, 8], [15, 8, 20, 12]])


def test_a_digest_is_of_the_images_and_their_annotations_and_not_of_the_place(tmp_path):
    def digest(name, *annotations, rename=None, **options):
        folder = tmp_path / name
        folder.mkdir()
        config = coco(folder, list(annotations))
        if rename is not None:
            old, new = rename
            (folder / "truth.json").write_text((folder / "truth.json").read_text().replace(old, new))
        return open_objects(dataclasses.replace(config, **options), path="config.data.train", masks=False).digest

    box = [2, 2, 8, 6]
    first = digest("a", annotation(1, box))
    assert first == digest("moved", annotation(1, box))
    assert first == digest("other polygon", annotation(5, box, segmentation=[[2.0, 2.0, 9.0, 2.0, 9.0, 8.0]]))
    others = [
        digest("none"),
        digest("box", annotation(1, [2, 2, 8, 5])),
        digest("category", annotation(1, box, category_id=90)),
        digest("crowd", annotation(1, box, iscrowd=1)),
        digest("area", annotation(1, box, area=2.0)),
        digest("of the other image", annotation(1, box, image_id=9)),
        digest("id", annotation(1, box), rename=('"id": 9, "file_name"', '"id": 8, "file_name"')),
        digest("class", annotation(1, box), rename=("bottle", "jar")),
        digest("fewer", annotation(1, box), limit=1),
    ]
    assert len({first, *others}) == 10


def test_a_crowd_without_a_box_has_a_digest(tmp_path):
    crowd = annotation(1, None, iscrowd=1, segmentation={"size": [12, 20], "counts": [0, 240]})
    del crowd["bbox"], crowd["area"]
    assert len(open_objects(coco(tmp_path, [crowd]), path="config.data.train", masks=True).digest) == 64
