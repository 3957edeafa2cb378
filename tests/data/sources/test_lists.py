"""Lists of images as people write them, and several roots as one data set."""

import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flsl_jax.config import SourceConfig
from flsl_jax.data.records import Source
from flsl_jax.data.sources.lists import ListSource
from flsl_jax.data.sources.opening import FolderSource, open_any, open_source
from flsl_jax.errors import UserError


def _write(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(path.encode())
    return root


def _names(source: Source) -> list[str]:
    return [source[index].name for index in range(len(source))]


def _labels(source: Source) -> list[str | None]:
    found = [source[index].label for index in range(len(source))]
    return [None if label is None else source.class_names[label] for label in found]


def _list(path: Path, content: str | bytes, **keys: object) -> ListSource:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return ListSource(path, **keys)  # type: ignore[arg-type]


ROWS = [("a/1.jpg", "cat"), ("b c/2.png", "dog"), ("a/3.webp", "cat")]
TEXTS = {
    "plain.txt": "\n".join(path for path, _ in ROWS),
    "tabs.txt": "\n".join(map("\t".join, ROWS)),
    "windows.txt": "\r\n\r\n".join(path for path, _ in ROWS) + "\r\n",
    "mac.txt": "\r".join(path for path, _ in ROWS),
    "comma.csv": "file_name,width,label\n" + "".join(f"{path},3,{label}\n" for path, label in ROWS),
    "bom.csv": "\ufeffPath,Class\r\n" + "".join(f"{path},{label}\r\n" for path, label in ROWS),
    "semicolon.csv": "label;image\n" + "".join(f"{label};{path}\n" for path, label in ROWS),
    "headless.csv": "".join(f"{path},{label}\n" for path, label in ROWS),
    "tabs.tsv": "name\tcategory\n" + "".join(f"{path}\t{label}\n" for path, label in ROWS),
    "lines.jsonl": "".join(json.dumps({"path": path, "label": label}) + "\n" for path, label in ROWS),
    "quoted.jsonl": "".join(json.dumps(path) + "\n\n" for path, _ in ROWS),
}


@pytest.mark.parametrize("name", TEXTS)
def test_lists_of_every_kind_name_the_same_files(name: str, tmp_path: Path) -> None:
    _write(tmp_path, *(path for path, _ in ROWS))
    source = _list(tmp_path / name, TEXTS[name])
    assert _names(source) == [path for path, _ in ROWS]
    assert [source[index].image for index in range(3)] == [path.encode() for path, _ in ROWS]
    folders = ("plain.txt", "windows.txt", "mac.txt", "quoted.jsonl")
    assert _labels(source) == (["a", "b c", "a"] if name in folders else ["cat", "dog", "cat"])
    copy = pickle.loads(pickle.dumps(source))
    assert [copy[index] for index in range(3)] == [source[index] for index in range(3)]
    assert str(source.listing) == "images: 1 JPEG, 1 PNG, 1 WebP; passed over: nothing"


def test_utf_16_as_powershell_writes_it(tmp_path: Path) -> None:
    _write(tmp_path, "é.jpg", "2.jpg")
    assert _names(_list(tmp_path / "list.txt", "é.jpg\r\n2.jpg\r\n".encode("utf-16"))) == ["é.jpg", "2.jpg"]


def test_numbers_behind_names_are_classes_in_the_order_of_numbers(tmp_path: Path) -> None:
    _write(tmp_path, "a 1.JPEG", "b.JPEG", "c.JPEG")
    source = _list(tmp_path / "val.txt", "a 1.JPEG 10\nb.JPEG 9\nc.JPEG 10\n")
    assert source.class_names == ("9", "10")
    assert [source[index].label for index in range(3)] == [1, 0, 1]
    assert source[0].name == "a 1.JPEG"


def test_paths_are_relative_absolute_and_named_once(tmp_path: Path) -> None:
    _write(tmp_path / "lists", "x/1.jpg")
    _write(tmp_path / "elsewhere", "2.jpg", "3.jpg")
    far = tmp_path / "elsewhere"
    lines = ["x/1.jpg", "./x/1.jpg", f"{tmp_path}/lists/x/1.jpg", "x\\1.jpg"]
    lines += ["../elsewhere/2.jpg", f"{far}/2.jpg", f"{far}/3.jpg"]
    source = _list(tmp_path / "lists" / "list.txt", "\n".join(lines))
    assert _names(source) == ["x/1.jpg", f"{far}/2.jpg", f"{far}/3.jpg"]
    assert "4 named before (x/1.jpg, …)" in str(source.listing)
    assert _names(_list(tmp_path / "lists" / "windows.txt", "x\\1.jpg")) == ["x/1.jpg"]
    # Where files lie does not matter to a run that continues.
    far.rename(tmp_path / "moved")
    moved = _list(tmp_path / "lists" / "list.txt", "\n".join(lines).replace("elsewhere", "moved"))
    assert moved.digest == source.digest
    fewer = _list(tmp_path / "lists" / "list.txt", "x/1.jpg")
    assert fewer.digest != source.digest


def test_names_may_hold_line_ends_and_any_bytes(tmp_path: Path) -> None:
    _write(tmp_path, "two\nlines.jpg", 'a"b,c.jpg')
    (tmp_path / "x").mkdir()
    Path(str(tmp_path) + "/x/\udcff.jpg").write_bytes(b"1")
    table = 'path,label\n"two\nlines.jpg",1\n"a""b,c.jpg",2\n'
    assert _names(_list(tmp_path / "list.csv", table)) == ["two\nlines.jpg", 'a"b,c.jpg']
    assert _names(_list(tmp_path / "list.jsonl", '"two\\nlines.jpg"')) == ["two\nlines.jpg"]
    assert _names(_list(tmp_path / "list.txt", b"x/\xff.jpg")) == ["x/\udcff.jpg"]


def test_files_that_are_not_there_are_counted_and_named(tmp_path: Path) -> None:
    there = [f"{number:02d}.png" for number in range(30)]
    _write(tmp_path, *there)
    (tmp_path / "folder.png").mkdir()
    listed = "\n".join([*there, "gone.png", "folder.png"])
    source = _list(tmp_path / "list.txt", listed, max_corrupt_share=0.0)
    assert len(source) == 30
    assert "passed over: gone.png (not there), folder.png (a folder)" in str(source.listing)
    with pytest.raises(
        UserError, match=r"list\.txt: 2 of its 32 files are not there, such as gone\.png.*on_corrupt=replace"
    ):
        ListSource(tmp_path / "list.txt", on_corrupt="fail")
    many = listed + "".join(f"\ngone{number}.png" for number in range(20))
    with pytest.raises(UserError, match=r"22 of its 52 files.*more than max_corrupt_share=0\.1 allows; relative"):
        open_source(SourceConfig(name="list", root=str(_saved(tmp_path / "many.txt", many))))
    assert len(ListSource(tmp_path / "many.txt", max_corrupt_share=0.5)) == 30
    with pytest.raises(
        UserError, match=r"1 of its 1 files are not there, such as .*photo\.jpg.*names files, not addresses"
    ):
        _list(tmp_path / "web.txt", "https://example.org/photo.jpg")


def _saved(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("name", "content", "keys", "message"),
    [
        ("list.txt", " \n\n", {}, "lists no image"),
        ("list.txt", "1.jpg\n\0PNG", {}, "is no text; name a list of images"),
        ("list.txt", "gone.jpg\n", {}, "1 of its 1 files are not there, .*: mend the paths, or move the list"),
        ("list.txt", "1.jpg", {"image_column": "x"}, "has no columns to choose from"),
        ("list.csv", "a,b\n1,2\n", {}, "no column with a usual name of paths .*only a, b; name it by image_column"),
        ("list.csv", "path,b\n1.jpg,2\n", {"image_column": "file"}, "no column 'file', only path, b; name one"),
        ("list.csv", "path,b\n1.jpg,2\n", {"label_column": "c"}, "no column 'c', only path, b; .* by label_column"),
        ("list.csv", 'path\n1.jpg\n"2.jpg', {}, "line 3: unexpected end of data; mend the quotes"),
        ("list.csv", "path,label\n1.jpg,2\n,3\n", {}, "line 3: no path in column 1"),
        ("list.jsonl", '{"path": "1.jpg"}\n{"path": ', {}, "line 2: not JSON"),
        ("list.jsonl", '{"path": 3}', {}, "line 1: path is 3; expected the path of an image"),
        ("list.jsonl", "[1]", {}, "line 1: expected an object with a path"),
        ("list.jsonl", '{"path": "1.jpg", "c": [1]}', {"label_column": "c"}, r"c is \[1\]; expected a word"),
        ("list.json", "[]", {}, "no list of images by its name"),
    ],
)
def test_what_is_wrong_with_a_list_is_one_line(
    name: str, content: str, keys: dict[str, str], message: str, tmp_path: Path
) -> None:
    _write(tmp_path, "1.jpg", "2.jpg")
    with pytest.raises(UserError, match=message):
        _list(tmp_path / name, content, **keys)


def test_columns_are_chosen_by_name(tmp_path: Path) -> None:
    _write(tmp_path, "1.jpg", "2.jpg")
    content = "path,other,kind\n1.jpg,2.jpg,x\n"
    source = _list(tmp_path / "list.csv", content, image_column="other", label_column="KIND")
    assert (_names(source), _labels(source)) == (["2.jpg"], ["x"])


def test_several_folders_are_one_with_the_names_of_all(tmp_path: Path) -> None:
    _write(tmp_path / "a" / "train", "cat/1.png", "dog/2.png")
    _write(tmp_path / "b" / "train", "cat/1.png")
    roots = f"{tmp_path}/a/train,{tmp_path}/b/train"
    source = open_source(SourceConfig(root=roots))
    assert _names(source) == ["a/train/cat/1.png", "a/train/dog/2.png", "b/train/cat/1.png"]
    assert _labels(source) == ["cat", "dog", "cat"]
    assert [source.path(index) for index in range(3)] == _names(source)  # type: ignore[attr-defined]
    assert str(source.listing) == "images: 3 PNG; passed over: nothing"  # type: ignore[attr-defined]
    again = open_source(SourceConfig(root=f"[{tmp_path}/a/train, {tmp_path}/b/train]", limit=2))
    assert _names(again) == _names(source)[:2]
    other = open_source(SourceConfig(root=f"{tmp_path}/b/train,{tmp_path}/a/train"))
    assert other.digest != source.digest
    with pytest.raises(UserError, match="is named twice"):
        open_source(SourceConfig(root=f"{tmp_path}/a/train,{tmp_path}/a/../a/train"))


def test_folders_that_are_no_classes_together_have_no_labels(tmp_path: Path) -> None:
    _write(tmp_path, "one/cat/1.png", "two/cat/2.png", "flat/3.png")
    assert open_source(SourceConfig(root=f"{tmp_path}/one,{tmp_path}/two")).class_names == ()
    assert open_source(SourceConfig(root=f"{tmp_path}/one,{tmp_path}/flat")).class_names == ()


def test_a_folder_whose_name_has_a_comma_is_one(tmp_path: Path) -> None:
    _write(tmp_path / "a,b", "1.png")
    _write(tmp_path / "c", "2.png")
    assert _names(open_source(SourceConfig(root=f"{tmp_path}/a,b"))) == ["1.png"]
    both = repr([f"{tmp_path}/a,b", f"{tmp_path}/c"])
    assert _names(open_source(SourceConfig(root=both))) == ["a,b/1.png", "c/2.png"]


def test_patterns_stand_for_several_roots(tmp_path: Path) -> None:
    for number in range(8, 12):
        _write(tmp_path / f"part-{number:02d}", "1.png")
    for pattern in ("part-{08..11}", "part-*"):
        assert _names(open_source(SourceConfig(root=f"{tmp_path}/{pattern}"))) == [
            f"part-{n:02d}/1.png" for n in range(8, 12)
        ]
    with pytest.raises(UserError, match="part-12 cannot be read"):
        open_source(SourceConfig(root=f"{tmp_path}/part-{{08..12}}"))
    with pytest.raises(UserError, match="fits no file or folder"):
        open_source(SourceConfig(root=f"{tmp_path}/nothing-*"))


def test_mixed_roots_are_told_apart(tmp_path: Path) -> None:
    _write(tmp_path / "photos", "1.png", "2.png")
    _saved(tmp_path / "list.csv", "path,label\nphotos/2.png,cat\n")
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2)).save(buffer, "PNG")
    (tmp_path / "single.png").write_bytes(buffer.getvalue())
    source = open_any(f"{tmp_path}/photos,{tmp_path}/list.csv,{tmp_path}/single.png")
    assert _names(source) == ["photos/1.png", "photos/2.png", "list.csv/photos/2.png", "single.png/single.png"]
    assert _labels(source) == [None, None, "cat", None]
    with pytest.raises(UserError, match=r"notes\.odt is no image by its name"):
        open_any(str(_saved(tmp_path / "notes.odt", "")))
    with pytest.raises(UserError, match=r"nowhere cannot be read \(No such file"):
        open_any(str(tmp_path / "nowhere"))


def test_boxes_are_matched_with_a_list(tmp_path: Path) -> None:
    _write(tmp_path, "a/1.png", "b/2.png")
    _saved(tmp_path / "list.txt", "a/1.png\nb/2.png\n")
    coco = {
        "images": [{"id": 7, "file_name": "2.png"}],
        "categories": [{"id": 3, "name": "cat"}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [3.0, 4.0, 10.0, 11.0]}],
    }
    _saved(tmp_path / "boxes.json", json.dumps(coco))
    source = open_source(SourceConfig(name="list", root=f"{tmp_path}/list.txt", boxes=f"{tmp_path}/boxes.json"))
    assert source[0].boxes is None
    np.testing.assert_array_equal(source[1].boxes.xyxy, [[3, 4, 13, 15]])  # type: ignore[union-attr]


def test_a_folder_is_the_same_data_set_as_before(tmp_path: Path) -> None:
    source = FolderSource(_write(tmp_path, "a/1.png", "b/2.png"))
    assert source.digest == "b24d65685afd9c0f9c340ebbf3f50a8224f2ff10c8caa02c6bad1a1e91aa14a0"


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ("Nr;Bild;Klasse\n1;a.png;x\n2;b.JPG;y\n", ""),
        ("Bild\na.png\nb.JPG\n", ""),
        ("x.png,1\na.png,2\nb.JPG,3\n", "1 of its 3 files"),  # the first line is an image itself, and no header
        ("Bild,Maske\na.png,a.png\nb.JPG,b.JPG\n", "no column with a usual name"),  # two could be meant
        ("Nr,Text\n1,hello\n", "no column with a usual name"),
    ],
)
def test_a_column_of_images_is_known_by_its_cells(table, problem, tmp_path):
    for name in ("a.png", "b.JPG"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "list.csv").write_text(table)
    if problem:
        with pytest.raises(UserError, match=problem):
            ListSource(tmp_path / "list.csv", on_corrupt="fail")
        return
    source = ListSource(tmp_path / "list.csv", on_corrupt="fail", label_column="Klasse" if "Klasse" in table else "")
    assert [source.path(index) for index in range(len(source))] == ["a.png", "b.JPG"]
    assert source.class_names == (("x", "y") if "Klasse" in table else ())
