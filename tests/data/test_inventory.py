import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import make_folder

from neuroevo.data import datasets, inventory
from neuroevo.data.arrays import Vectors
from neuroevo.data.datasets import Dataset
from neuroevo.data.images import Arrays
from neuroevo.data.splits import split


def taken(root: Path) -> tuple[Dataset, inventory.Splits]:
    whole = datasets.image_folder(root=str(root))
    splits = split(whole, 0, 0.2, 0.2)
    return inventory.add_notes(whole, splits), splits


def test_copies_across_splits_and_classes_are_counted_with_an_example(tmp_path: Path) -> None:
    make_folder(tmp_path, {"train": {"a": 10, "b": 10}, "val": {"a": 2, "b": 2}, "test": {"a": 3, "b": 3}})
    for i in range(2):
        shutil.copy(tmp_path / f"train/a/00{i}.png", tmp_path / f"test/a/copy{i}.png")
    shutil.copy(tmp_path / "test/b/000.png", tmp_path / "val/b/copy.png")
    shutil.copy(tmp_path / "train/a/005.png", tmp_path / "train/b/copy.png")
    whole, splits = taken(tmp_path)
    across, labels = (note for note in whole.notes if note.startswith("duplicates"))
    assert ": 2 of test in train, 1 of test in validation, such as" in across
    assert f"{tmp_path}/train/a/000.png and {tmp_path}/test/a/copy0.png" in across
    assert "in two classes, byte for byte: 1, such as" in labels
    rows = inventory.rows(whole, splits)
    assert [value for name, value in rows if name == "duplicates"] == [
        note.removeprefix("duplicates: ") for note in (across, labels)
    ]
    assert across in inventory.lines(whole, splits)
    assert across in inventory.record(whole, splits)["notes"]


def test_where_nothing_is_twice_that_is_said_and_what_cannot_be_read_is_left_to_its_reader(tmp_path: Path) -> None:
    make_folder(tmp_path, {".": {"a": 10, "b": 10}})
    whole, splits = taken(tmp_path)
    assert ("duplicates", "none across splits or classes") in inventory.rows(whole, splits)
    (tmp_path / "a/000.png").unlink()
    assert inventory.duplicates(whole, splits) == [
        f"duplicates: not looked for ({tmp_path}/a/000.png: broken image (No such file or directory))"
    ]


def test_rows_say_what_serves_which_split_and_count_kinds_of_files_by_class_and_split(tmp_path: Path) -> None:
    make_folder(tmp_path, {"Training": {"a": 10, "b": 10}, "Testing": {"a": 3}})
    (tmp_path / "Testing/a/000.png").rename(tmp_path / "Testing/a/000.PNM")
    rows = inventory.rows(*taken(tmp_path))
    assert rows[:5] == [
        ("train", f"{tmp_path}/Training"),
        ("validation", f"cut from {tmp_path}/Training"),
        ("test", f"{tmp_path}/Testing"),
        ("class a", "train 8 .png; validation 2 .png; test 2 .png + 1 .pnm"),
        ("class b", "train 8 .png; validation 2 .png; test 0"),
    ]
    assert ("note", f"{tmp_path}/Testing has no images of 1 class: b") in rows


def test_a_hundred_classes_have_twenty_rows_and_one_of_the_rest(tmp_path: Path) -> None:
    make_folder(tmp_path, {".": {f"c{i:03d}": 5 + (i == 99) for i in range(100)}}, size=1)
    rows = inventory.rows(*taken(tmp_path))
    names = [name for name, _ in rows if name.startswith(("class", "..."))]
    assert names == [*(f"class c{i:03d}" for i in range(20)), "... 80 more"]
    rest = dict(rows)["... 80 more"]
    assert rest.startswith("train 241 .png (3 to 4 a class); validation 80 .png (1 to 1 a class)")


def test_classes_without_an_image_in_a_split_that_was_cut_are_named(tmp_path: Path) -> None:
    make_folder(tmp_path, {".": {"a": 30, "b": 30, "one": 1, "two": 2}})
    whole, splits = taken(tmp_path)
    counts = {split: np.bincount(whole.labels[rows], minlength=4).tolist() for split, rows in splits.items()}
    assert counts["train"][2:] == [1, 1]
    assert counts["test"][2:] == [0, 1]
    assert inventory.absent(whole, splits) == [
        "validation has no image of one, two (2 of 4 classes): its figures say nothing of them",
        "test has no image of one (1 of 4 classes): its figures say nothing of them",
    ]


def test_data_that_is_no_folder_has_counts_and_nothing_to_say() -> None:
    whole = datasets.digits()
    splits = split(whole, 0, 0.15, 0.15)
    whole = inventory.add_notes(whole, splits)
    assert inventory.lines(whole, splits) == inventory.rows(whole, splits) == []
    assert inventory.record(whole, splits) == {
        "images": {"train": 1257, "validation": 270, "test": 270}, "folders": {}, "notes": [],
    }  # fmt: skip


def test_a_note_that_never_ends_is_cut(tmp_path: Path) -> None:
    whole = Dataset(("a",), Arrays(np.zeros((1, 1, 1), np.uint8)), np.zeros(1, np.int64), np.zeros(1, np.int64),
                    (), ("x" * 10_000,) * 1000)  # fmt: skip
    lines = inventory.lines(whole, {})
    assert len(lines) == inventory.LINES
    assert max(map(len, lines)) == inventory.LENGTH


def test_broken_images_are_named_and_counted_and_too_many_are_not_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_folder(tmp_path, {".": {"a": 20, "b": 20}})
    for i in range(7):
        (tmp_path / "a" / f"x{i}.png").write_bytes(b"broken")
    rows = inventory.rows(*taken(tmp_path))
    told = [text for name, text in rows if name.startswith("broken")]
    assert len(told) == 6
    assert "x0.png: broken image" in told[0]
    assert told[-1] == "7; --set data.broken=skip leaves such files out"
    monkeypatch.setattr(inventory, "MANY", 3)
    assert ("broken", "not looked for among more than 3 images") in inventory.rows(*taken(tmp_path))


@pytest.mark.parametrize("kind", ["images", "samples"])
def test_copies_among_arrays_are_counted_with_their_rows(kind: str) -> None:
    rows = np.random.default_rng(0).integers(0, 256, (40, 3, 3))
    rows[35], rows[36], rows[37] = (
        rows[2],
        rows[2],
        rows[21],
    )  # test of train, twice, and of validation; then of a class
    rows[5] = rows[4]
    pixels = rows.astype(np.uint8)
    images = Arrays(pixels) if kind == "images" else Vectors(rows.reshape(40, 9).astype(np.float32))
    labels, part = np.zeros(40, np.int64), np.repeat([0, 1, 2], [20, 10, 10])
    labels[5], labels[10:15], labels[22:25], labels[30:34] = 1, 1, 1, 1
    data = Dataset(("a", "b"), images, labels, part)
    splits = split(data, 0, 0.2, 0.2)
    across, classes = inventory.duplicates(data, splits)
    found = f"{kind} in two splits, byte for byte: 2 of test in train, 1 of test in validation"
    assert across == f"duplicates: {found}, such as row 2 and row 35"
    assert classes == f"duplicates: {kind} in two classes, byte for byte: 1, such as row 4 and row 5"
    assert inventory.duplicates(data, splits, numbered=False)[0] == f"duplicates: {found}"
    assert inventory.flatters(inventory.add_notes(data, splits).notes) == [f"{across}; figures on them flatter"]
    clean = data.take(np.flatnonzero(~np.isin(np.arange(40), (5, 35, 36, 37))))
    assert inventory.duplicates(clean, split(clean, 0, 0.2, 0.2)) == []
