"""Names of images and of annotations, spelled in the ways that programs spell them, by hand."""

import pytest

from flsl_jax.data.box_names import match_names, require_some
from flsl_jax.errors import UserError

IMAGES = ["a/1.jpg", "a/2.jpg", "b/1.jpg", "c/x/3.jpg"]


@pytest.mark.parametrize(
    "spelling",
    ["{}", "./{}", "train2017/{}", "/home/me/data/{}", "C:\\data\\{}", "a//../{}"],
)
@pytest.mark.parametrize("slash", ["/", "\\"])
def test_the_usual_spellings_of_a_path_are_of_its_image(spelling, slash):
    names = [spelling.format(image).replace("/", slash) for image in IMAGES]
    match = match_names(IMAGES, names)
    assert match.listed == dict(zip(IMAGES, names))
    assert (match.missing, match.doubtful) == ((), ())
    assert len(match.respelled) == (0 if (spelling, slash) == ("{}", "/") else 4)


def test_names_that_say_less_than_the_path_are_matched_where_one_image_fits():
    assert match_names(IMAGES, ["2.jpg", "3"]).listed == {"a/2.jpg": "2.jpg", "c/x/3.jpg": "3"}
    match = match_names(IMAGES, ["x/3.jpg", "other/2.jpg"])
    assert match.listed == {"c/x/3.jpg": "x/3.jpg", "a/2.jpg": "other/2.jpg"}
    assert len(match.respelled) == 2


def test_where_two_fit_none_is_taken():
    match = match_names(IMAGES, ["1.jpg", "a/2.jpg", "z/1.jpg"])
    assert match.listed == {"a/2.jpg": "a/2.jpg"}
    assert [name for name, _ in match.doubtful] == ["1.jpg", "z/1.jpg"]
    assert match.missing == ()
    match = match_names(["a/1.jpg"], ["x/1.jpg", "y/1.jpg"])
    assert match.listed == {}
    assert match.doubtful == (("x/1.jpg", "a/1.jpg"), ("y/1.jpg", "a/1.jpg"))


def test_the_longest_common_end_wins():
    match = match_names(IMAGES, ["t/a/1.jpg", "t/b/1.jpg", "t/q/1.jpg"])
    assert match.listed == {"a/1.jpg": "t/a/1.jpg", "b/1.jpg": "t/b/1.jpg"}
    assert [name for name, _ in match.doubtful] == ["t/q/1.jpg"]
    match = match_names(["a/1.jpg"], ["t/a/1.jpg", "t/b/1.jpg"])
    assert match.listed == {"a/1.jpg": "t/a/1.jpg"}
    assert match.doubtful == (("t/b/1.jpg", "a/1.jpg"),)


def test_an_exact_name_is_of_that_image_alone():
    match = match_names(["1.jpg", "b/1.jpg"], ["1.jpg"])
    assert (match.listed, match.doubtful) == ({"1.jpg": "1.jpg"}, ())


def test_names_of_no_image_are_missing():
    match = match_names(IMAGES, ["a/2.jpg", "9.jpg", "", "./"])
    assert match.missing == ("9.jpg", "", "./")
    assert match.listed == {"a/2.jpg": "a/2.jpg"}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "boxes f lists no image"),
        (
            ["8.jpg", "9.jpg"],
            r"none of its 2 names is an image of folder; it has 8\.jpg, 9\.jpg, and the folder a/1\.jpg, a",
        ),
        (["1.jpg"], r"each of its names fits several images of folder.*such as 1\.jpg and a/1\.jpg"),
    ],
)
def test_no_match_at_all_is_refused_with_names_of_both_sides(names, message):
    match = match_names(IMAGES, names)
    with pytest.raises(UserError, match=message):
        require_some(match, images=IMAGES, annotations=names, what="boxes f", folder="folder")
