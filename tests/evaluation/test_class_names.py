"""Classes of two sources, matched by name."""

import pytest

from flsl_jax.data.truth.masks import open_masked
from flsl_jax.errors import UserError
from flsl_jax.evaluation.class_names import check_same_classes, translation
from tests.mask_encoders import scenes


def test_labels_are_translated_by_their_names() -> None:
    assert translation(["cat", "dog"], ["cat", "dog"], what="task") is None
    found = translation(["cat", "dog", "ant"], ["ant", "cow", "cat"], what="task")
    assert found is not None
    assert found.tolist() == [2, -1, 0]
    with pytest.raises(UserError, match=r"task: the classes of its bank \(cat, dog\) and of its queries \(no names\)"):
        translation(["cat", "dog"], [], what="task")


def test_sources_whose_labels_mean_different_classes_are_refused() -> None:
    train, val = open_masked(scenes(1, split="train")), open_masked(scenes(1, split="val", ignore=(0,)))
    check_same_classes(train, train)
    with pytest.raises(
        UserError, match=r'9 classes and val .* 8; label 0 is "background" there and "striped disk" here'
    ):
        check_same_classes(train, val)
