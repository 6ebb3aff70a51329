import hashlib
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_folder
from PIL import Image
from sklearn.datasets import load_digits

from neuroevo.data import datasets
from neuroevo.data.datasets import Dataset
from neuroevo.data.foldernames import SPLITS
from neuroevo.data.images import Arrays, Files
from neuroevo.data.splits import limit_images, split
from neuroevo.errors import InputError


def toy(labels: list[int], part: list[int] | None = None) -> Dataset:
    y = np.array(labels, dtype=np.int64)
    return Dataset(
        tuple(f"c{i}" for i in range(int(y.max()) + 1)),
        Arrays(np.arange(len(y) * 4, dtype=np.uint8).reshape(-1, 2, 2)),
        y,
        np.array(part, dtype=np.int64) if part else np.full(len(y), -1),
    )


def test_digits_are_there_without_a_network() -> None:
    digits = datasets.digits()
    assert len(digits.labels) == 1797
    assert digits.native() == (8, 8, 1)
    theirs = load_digits()
    pixels = digits.images.pixels  # type: ignore[union-attr]
    assert np.array_equal(pixels, np.rint(theirs.images * 255 / 16))
    assert pixels.max() == 255
    assert np.array_equal(digits.labels, theirs.target)


def test_digits_without_scikit_learn_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"^name: digits are scikit-learn's; install it with: pip install 'neuroevo"):
        datasets.digits()


def test_splits_are_disjoint_whole_stratified_and_decided_by_the_split_seed() -> None:
    digits = datasets.digits()
    splits = split(digits, 0, 0.15, 0.15)
    rows = torch.cat(list(splits.values()))
    assert sorted(rows.tolist()) == list(range(1797))
    assert [len(splits[name]) for name in ("train", "validation", "test")] == [1257, 270, 270]
    for index in splits.values():
        shares = np.bincount(digits.labels[index], minlength=10) / len(index)
        assert np.abs(shares - np.bincount(digits.labels) / 1797).max() < 0.006
    again, other = split(digits, 0, 0.15, 0.15), split(digits, 1, 0.15, 0.15)
    assert all(torch.equal(splits[name], again[name]) for name in splits)
    assert not torch.equal(splits["test"], other["test"])


def test_a_data_sets_own_test_split_stays_the_test_split() -> None:
    whole = toy([0, 1] * 20, [0] * 30 + [2] * 10)
    splits = split(whole, 0, 0.2, 0.5)
    assert splits["test"].tolist() == list(range(30, 40))
    assert len(splits["validation"]) == 6
    assert max(splits["validation"]) < 30


def test_own_splits_are_all_kept() -> None:
    splits = split(toy([0, 1] * 6, [0] * 6 + [1] * 2 + [2] * 4), 0, 0.5, 0.5)
    assert {name: index.tolist() for name, index in splits.items()} == {
        "train": [0, 1, 2, 3, 4, 5],
        "validation": [6, 7],
        "test": [8, 9, 10, 11],
    }


def test_every_class_is_in_every_split_however_rare() -> None:
    whole = toy([0] * 100 + [1] * 3)
    splits = split(whole, 3, 0.1, 0.1)
    for index in splits.values():
        assert set(whole.labels[index]) == {0, 1}


def test_a_share_that_leaves_a_class_out_is_refused() -> None:
    with pytest.raises(InputError, match=r"^test: 0.01 of 10 images"):
        split(toy([0, 1] * 5), 0, 0.15, 0.01)


@pytest.mark.parametrize("limit", [40, 41, 77, 200])
def test_limit_takes_a_stratified_part_with_the_parts_kept(limit: int) -> None:
    whole = toy(([0] * 3 + [1]) * 50, [0] * 160 + [2] * 40)
    part = limit_images(whole, limit, 0)
    assert len(part.labels) == limit
    assert abs((part.labels == 1).mean() - 0.25) < 0.03
    assert abs((part.part == 2).mean() - 0.2) < 0.03
    if limit < 200:
        assert part.images.fingerprint() != whole.images.fingerprint()
    assert limit_images(whole, limit, 0).images.fingerprint() == part.images.fingerprint()


def test_a_limit_below_the_number_of_classes_is_refused() -> None:
    with pytest.raises(InputError, match=r"^limit: 1 .* at least 2"):
        limit_images(toy([0, 1] * 5), 1, 0)


def test_three_folders_are_the_three_splits(tmp_path: Path) -> None:
    make_folder(tmp_path, {"train": {"a": 3, "b": 2}, "val": {"a": 1, "b": 1}, "test": {"a": 2, "b": 1}})
    whole = datasets.image_folder(root=str(tmp_path))
    assert whole.classes == ("a", "b")
    assert np.bincount(whole.part).tolist() == [5, 2, 3]
    assert [Path(p).parent.name for p in whole.images.paths[:5]] == ["a", "a", "a", "b", "b"]  # type: ignore[union-attr]


@pytest.mark.parametrize("second", ["val", "test", "validation"])
def test_of_two_folders_the_second_is_the_test_split(tmp_path: Path, second: str) -> None:
    make_folder(tmp_path, {"train": {"a": 3, "b": 3}, second: {"a": 2, "b": 2}})
    assert np.bincount(datasets.image_folder(root=str(tmp_path)).part).tolist() == [6, 0, 4]


def test_class_folders_right_under_the_root_leave_all_splits_to_us(tmp_path: Path) -> None:
    make_folder(tmp_path, {".": {"a": 3, "b": 3}})
    assert set(datasets.image_folder(root=str(tmp_path)).part) == {-1}


def test_dot_files_and_other_suffixes_are_ignored(tmp_path: Path) -> None:
    make_folder(tmp_path, {"train": {"a": 2, "b": 2}, "test": {"a": 1, "b": 1}})
    (tmp_path / "train" / ".complete").mkdir()
    (tmp_path / "train" / "a" / ".hidden.png").write_bytes(b"x")
    (tmp_path / "train" / "a" / "notes.txt").write_text("x")
    assert len(datasets.image_folder(root=str(tmp_path)).labels) == 6


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, "fewer than two class folders"),
        ({"test": {"a": 1, "b": 1}}, "no train folder"),
        ({"train": {"a": 2}, "test": {"a": 1}}, "fewer than two class folders"),
        ({"train": {"a": 2, "b": 0}, "test": {"a": 1, "b": 1}}, r"train/b has no images"),
        ({"train": {"a": 2, "b": 2}, "test": {"a": 1, "c": 1}}, r"test/c is a class that the train split doesn't have"),
        ({"train": {"a": 2, "b": 2}, "val": {"a": 1}, "valid": {"a": 1}}, "which is the validation split"),
    ],
)
def test_a_folder_that_is_not_right_is_refused(tmp_path: Path, parts: dict[str, dict[str, int]], message: str) -> None:
    make_folder(tmp_path, parts)
    with pytest.raises(InputError, match=message):
        datasets.image_folder(root=str(tmp_path))


def test_a_missing_root_is_refused() -> None:
    with pytest.raises(InputError, match=r"^root: /nowhere is not a folder"):
        datasets.image_folder(root="/nowhere")


def test_a_broken_image_is_named_and_skipped_only_if_asked(tmp_path: Path) -> None:
    make_folder(tmp_path, {"train": {"a": 3, "b": 3}, "test": {"a": 1, "b": 1}})
    bad = tmp_path / "train" / "a" / "001.png"
    bad.write_bytes(bad.read_bytes()[:40])
    whole = datasets.image_folder(root=str(tmp_path))
    with pytest.raises(InputError, match=r"train/a/001.png: broken image .* broken=skip$"):
        whole.images[1]
    left = datasets.image_folder(root=str(tmp_path), broken="skip")
    assert len(left.labels) == 7
    line = f"broken: 1 unreadable image left out: a 1 of 4; the first is {bad}: broken image (in no format"
    assert left.notes[0].startswith(line)
    assert datasets.image_folder(root=str(tmp_path / "train"), broken="skip").take(np.array([0])).notes
    found = datasets.read_others(str(tmp_path / "train"), ("a", "b", "c"), broken="skip")
    assert len(found.labels) == 5
    assert "a 1 of 3" in found.notes[0]


def test_the_first_image_may_be_broken(tmp_path: Path) -> None:
    make_folder(tmp_path, {"train": {"a": 3, "b": 3}})
    (tmp_path / "train" / "a" / "000.png").unlink()
    (tmp_path / "train" / "a" / "000.png").symlink_to("nowhere")
    with pytest.raises(InputError, match=r"a/000.png: broken image \(No such file"):
        datasets.image_folder(root=str(tmp_path)).native()
    assert datasets.image_folder(root=str(tmp_path), broken="skip").native() == (8, 8, 3)


def test_max_pixels_holds_for_a_data_set_and_for_other_images(tmp_path: Path) -> None:
    make_folder(tmp_path, {"train": {"a": 3, "b": 3}})
    for whole in (
        datasets.image_folder(root=str(tmp_path), max_pixels=63),
        datasets.read_others(str(tmp_path / "train"), ("a", "b"), max_pixels=63),
    ):
        with pytest.raises(InputError, match=r"8 x 8 pixels .* max_pixels, 63; .* max_pixels=64$"):
            whole.take(np.array([0, 4])).images[0]
    assert datasets.image_folder(root=str(tmp_path), max_pixels=64).native() == (8, 8, 3)


@pytest.mark.parametrize(
    ("mode", "channels"),
    [("L", 1), ("LA", 1), ("1", 1), ("I;16", 1), ("P", 3), ("RGB", 3), ("RGBA", 3), ("PA", 3), ("CMYK", 3)],
)
def test_channels_of_the_first_image_are_those_of_what_is_seen(tmp_path: Path, mode: str, channels: int) -> None:
    path = str(tmp_path / "x.tif")
    image = Image.new("I;16", (8, 6)) if mode == "I;16" else Image.new("L", (8, 6), 9).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(path, exif=exif)
    assert Dataset(("a",), Files([path]), np.zeros(1, np.int64), np.zeros(1, np.int64)).native() == (8, 6, channels)


def test_a_class_left_without_a_readable_image_is_refused(tmp_path: Path) -> None:
    make_folder(tmp_path, {"train": {"a": 1, "b": 3}})
    (tmp_path / "train" / "a" / "000.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="class a has no image that can be read"):
        datasets.image_folder(root=str(tmp_path), broken="skip")


def test_a_fingerprint_follows_content_and_order_but_not_names(tmp_path: Path) -> None:
    make_folder(tmp_path, {"train": {"a": 2, "b": 2}})
    paths = datasets.image_folder(root=str(tmp_path)).images.paths  # type: ignore[union-attr]
    first = Files(paths).fingerprint()
    assert Files(paths[::-1]).fingerprint() != first
    moved = tmp_path / "train" / "a" / "zzz.png"
    Path(paths[1]).rename(moved)
    assert Files([paths[0], str(moved), *paths[2:]]).fingerprint() == first
    Image.new("RGB", (8, 8)).save(moved)
    assert Files([paths[0], str(moved), *paths[2:]]).fingerprint() != first


def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the paths of images that are opened from now on, as they come."""
    found: list[str] = []
    real = os.open

    def opening(path: str, *given: Any) -> int:
        if str(path).endswith(".png"):
            found.append(path)
        return real(path, *given)

    monkeypatch.setattr(os, "open", opening)
    return found


def test_files_seen_before_are_not_read_again_until_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_folder(tmp_path, {"train": {"a": 2, "b": 2}})
    files = Files(datasets.image_folder(root=str(tmp_path)).images.paths)  # type: ignore[union-attr]
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 10)  # files just written aren't trusted
    first = files.fingerprint()
    read = reads(monkeypatch)
    assert files.fingerprint() == first
    assert read == []
    stat = os.stat(files.paths[0])
    Image.new("RGB", (8, 8)).save(files.paths[0])
    os.utime(files.paths[0], ns=(stat.st_atime_ns, stat.st_mtime_ns))  # ctime can't be set back
    hashes = files.hashes()
    assert read == files.paths
    assert hashes == [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in files.paths]
    assert files.fingerprint() != first


def test_files_written_just_now_are_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path, {"train": {"a": 2, "b": 2}})
    files = Files(datasets.image_folder(root=str(tmp_path)).images.paths)  # type: ignore[union-attr]
    files.fingerprint()
    read = reads(monkeypatch)
    files.hashes()
    assert read == files.paths


def test_a_root_is_found_in_the_current_folder_then_under_neuroevo_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here" / "both").mkdir(parents=True)
    (tmp_path / "there" / "both").mkdir(parents=True)
    (tmp_path / "there" / "only").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("NEUROEVO_DATA", str(tmp_path / "there"))
    assert datasets.find_root("both") == str(tmp_path / "here" / "both")
    assert datasets.find_root("only") == str(tmp_path / "there" / "only")
    assert datasets.find_root("neither") == str(tmp_path / "here" / "neither")
    assert datasets.find_root("/absolute") == "/absolute"
    assert datasets.find_root(None) == str(tmp_path / "there")


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100"])
def test_data_that_is_not_there_and_not_to_be_downloaded_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"^root: .* is not there"):
        datasets.DATASETS[name](root=str(tmp_path), download=False)


def test_mnist_reads_the_idx_files(data_root: Path) -> None:
    mnist = datasets.mnist(root=str(data_root), download=False)
    assert mnist.native() == (28, 28, 1)
    assert np.bincount(mnist.part).tolist() == [60000, 0, 10000]
    assert mnist.classes[3] == "3 - three"


def test_other_labelled_images_are_mapped_to_the_runs_classes(tmp_path: Path) -> None:
    make_folder(tmp_path, {"test": {"c": 2, "a": 1}})
    found = datasets.read_others(str(tmp_path), ("a", "b", "c"))
    assert found.labels.tolist() == [0, 2, 2]
    with pytest.raises(InputError, match="class c, which the run doesn't know"):
        datasets.read_others(str(tmp_path / "test"), ("a", "b"))
    with pytest.raises(InputError, match="is not a folder"):
        datasets.read_others(str(tmp_path / "x"), ("a", "b"))


@pytest.mark.parametrize("ratio", [0.01, 0.3, 1.0])
def test_a_long_tail_falls_to_its_ratio_and_leaves_test_as_it_is(ratio: float) -> None:
    whole = toy(list(range(4)) * 500, [0] * 1600 + [2] * 400)
    plain, tailed = (split(whole, 0, 0.25, 0.2, r) for r in (None, ratio))
    assert torch.equal(plain["test"], tailed["test"])
    for name, full in (("train", 300), ("validation", 100)):
        counts = np.bincount(whole.labels[tailed[name]], minlength=4)
        assert counts.tolist() == [max(1, round(full * ratio ** (c / 3))) for c in range(4)]
        assert set(tailed[name].tolist()) <= set(plain[name].tolist())


def test_a_classs_only_image_stays_in_train() -> None:
    whole = toy([0] * 100 + [1] * 100 + [2] * 100 + list(range(3, 23)))
    splits = split(whole, 0, 0.15, 0.15)
    assert [len(splits[name]) for name in SPLITS] == [224, 48, 48]
    assert set(range(300, 320)) <= set(splits["train"].tolist())


def test_of_two_images_of_a_class_one_is_for_test_and_of_three_each_split_has_one() -> None:
    whole = toy([0] * 100 + [1] * 100 + [2] * 2 + [3] * 3)
    counts = [np.bincount(whole.labels[rows], minlength=4)[2:] for rows in split(whole, 1, 0.15, 0.15).values()]
    assert np.array(counts).tolist() == [[1, 1], [0, 1], [1, 1]]


def test_rare_classes_do_not_push_each_other_out_of_a_split() -> None:
    whole = toy([0] * 200 + [c for c in range(1, 21) for _ in range(3)])
    for rows in split(whole, 0, 0.15, 0.15).values():
        assert set(whole.labels[rows]) == set(range(21))


def test_a_limit_keeps_an_image_of_every_class() -> None:
    part = limit_images(toy([0] * 200 + list(range(1, 6))), 20, 0)
    assert np.bincount(part.labels).tolist() == [15, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("each", "classes", "share", "word"),
    [
        (5, 10, 0.15, "at least 0.2"),
        (4, 7, 0.15, "at least 0.25"),
        (3, 4, 0.9, "at most 0.67"),
        (40, 3, 0.001, "at least"),
    ],
)
def test_a_share_that_is_refused_names_one_that_does(each: int, classes: int, share: float, word: str) -> None:
    whole = toy([c for c in range(classes) for _ in range(each)])
    with pytest.raises(InputError, match=word) as refused:
        split(whole, 0, 0.15, share)
    right = float(str(refused.value).split(" would do")[0].split()[-1])
    try:
        split(whole, 0, 0.15, right)
    except InputError as error:
        assert error.option != "test"


def test_images_of_one_of_each_class_cannot_be_cut() -> None:
    with pytest.raises(InputError, match=r"^test: no class has two images to cut from"):
        split(toy([0, 1, 2]), 0, 0.15, 0.15)


def test_splits_of_classes_with_enough_images_are_those_of_ever() -> None:
    labels = np.concatenate([np.arange(7)] * 60 + [np.arange(3)] * 40).tolist()
    splits = split(limit_images(toy(labels), 400, 3), 5, 0.15, 0.15)
    digests = {name: hashlib.sha256(rows.numpy().tobytes()).hexdigest()[:16] for name, rows in splits.items()}
    assert digests == {"train": "6aa6b0c0ddd988c6", "validation": "1fc85d9ca4811091", "test": "3e89fc319a6ed756"}


def test_hashes_of_files_are_remembered_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path, {".": {"a": 2, "b": 2}})
    files = datasets.image_folder(root=str(tmp_path)).images
    assert isinstance(files, Files)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 10)
    first = files.hashes()
    assert len(set(first)) == 4
    monkeypatch.setattr(Path, "read_bytes", lambda self: b"")
    assert Files(files.paths).hashes() == first


def test_notes_of_a_folder_come_with_its_images(tmp_path: Path) -> None:
    make_folder(tmp_path, {"Training": {"a": 2, "b": 2}, "Val": {"a": 1, "b": 1}})
    found = datasets.image_folder(root=str(tmp_path))
    assert dict(found.folders)["test"] == str(tmp_path / "Val")
    assert any("serves as test" in note for note in found.notes)
