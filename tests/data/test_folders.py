import os
import socket
import threading
from pathlib import Path

import pytest
from conftest import make_folder

from neuroevo.data.foldernames import SPLITS
from neuroevo.data.folders import Found, scan, scan_labelled
from neuroevo.errors import InputError

TWO = {"a": 2, "b": 2}


def counts(found: Found) -> dict[str, int]:
    names = (*SPLITS, "pool")
    return {names[part]: found.part.count(part) for part in sorted(set(found.part))}


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Training", "Testing"), ("TRAIN", "TEST"), ("Train", "Val"), ("train", "valid"), ("trn", "tst"),
        ("train", "eval"), ("train", "Evaluation"), ("train", "dev"), ("seg_train", "seg_test"),
        ("train_images", "test_images"), ("images_train", "images_val"), ("train2017", "val2017"),
        ("Train-Set", "Test-Set"), ("TrainSet", "TestSet"), ("Train Images", "Test Images"), ("trainval", "test"),
        ("cats_train", "cats_test"), ("bounding_box_train", "bounding_box_test"), ("1. train", "2. test"),
        ("dataTrain", "dataTest"), ("training_data", "validation_data"), ("X-train", "X-test"),
    ],
)  # fmt: skip
def test_split_folders_are_known_by_their_usual_names_in_any_case(tmp_path: Path, train: str, test: str) -> None:
    make_folder(tmp_path, {train: {"a": 3, "b": 3}, test: TWO})
    found = scan(str(tmp_path))
    assert found.classes == ("a", "b")
    assert counts(found) == {"train": 6, "test": 4}
    assert found.folders["test"] == str(tmp_path / test)
    assert found.folders["validation"] == f"cut from {tmp_path / train}"


def test_three_split_folders_are_three_splits_whatever_they_are_called(tmp_path: Path) -> None:
    make_folder(tmp_path, {"Training": {"a": 3, "b": 3}, "Valid": {"a": 1, "b": 1}, "TEST": TWO})
    assert counts(scan(str(tmp_path))) == {"train": 6, "validation": 2, "test": 4}


def test_a_second_part_that_serves_as_test_is_said(tmp_path: Path) -> None:
    make_folder(tmp_path, {"train": TWO, "val": TWO})
    assert any("no test folder" in note and "val serves as test" in note for note in scan(str(tmp_path)).notes)


@pytest.mark.parametrize(
    "name", ["contest", "steam train", "latest", "strain", "trainers", "dataset", "invalid", "set1"]
)
def test_class_names_that_only_remind_of_splits_are_classes(tmp_path: Path, name: str) -> None:
    make_folder(tmp_path, {".": {name: 2, "zebra": 2}})
    assert scan(str(tmp_path)).classes == tuple(sorted([name, "zebra"]))


def test_classes_called_as_splits_are_classes_under_a_train_folder(tmp_path: Path) -> None:
    make_folder(tmp_path, {"train": {"bus": 2, "train": 2, "valid": 1}, "test": {"train": 1}})
    assert scan(str(tmp_path)).classes == ("bus", "train", "valid")


def test_kaggles_nested_split_folders_are_read_and_what_is_not_labelled_is_left_out_by_name(tmp_path: Path) -> None:
    make_folder(tmp_path, {"seg_train/seg_train": TWO, "seg_test/seg_test": TWO, "seg_pred": {"seg_pred": 3}})
    found = scan(str(tmp_path))
    assert (found.classes, counts(found)) == (("a", "b"), {"train": 4, "test": 4})
    assert any("left out" in note and "seg_pred" in note for note in found.notes)


@pytest.mark.parametrize("inner", ["data", "pets/pets", "archive"])
def test_one_folder_that_holds_all_is_the_root(tmp_path: Path, inner: str) -> None:
    make_folder(tmp_path, {f"{inner}/train": TWO, f"{inner}/test": TWO})
    found = scan(str(tmp_path))
    assert counts(found) == {"train": 4, "test": 4}
    assert any("one folder only" in note for note in found.notes)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"train": TWO, "Training": TWO, "test": TWO}, "which is the train split"),
        ({"train": TWO, "eval": TWO, "val": TWO}, "which is the validation split"),
        ({"Testing": TWO, "Val": TWO}, "has Val and Testing but no train folder"),
        ({"train": TWO, ".": {"Test": 5}}, "Test has 5 images but no class folders"),
        ({"train": TWO, "test": {"test": 5}}, "test/test has 5 images but no class folders"),
        ({"cat": {"train": 2, "test": 2}, "dog": {"train": 2, "test": 2}}, "splits come first, as .*/train/cat"),
        ({"train": {"train": 2, "test": 2}}, "has test, train inside"),
        ({"bottle": {"train": 2, "test": 2, "ground_truth": 1}, "cap": {"train": 1}}, "splits come first"),
        ({"trainA": TWO, "trainB": TWO, "testA": TWO, "testB": TWO}, "look like splits"),
        ({"images": TWO, "annotations": {"xml": 0}}, "annotations has no images; if it is no class"),
        ({".": {"train": 4, "test": 4}}, "train has 4 images but no class folders"),
        ({"fold1": TWO, "fold2": TWO}, "look like parts of a data set"),
        ({"cats_train": TWO, "dogs_test": TWO}, "look like splits"),
        ({"train": TWO, "pets_test": TWO}, "if it is the test split, rename it to test"),
        ({".": {"bus": 2, "car": 2, "train": 2}}, "train beside bus, car: if all are classes"),
        ({".": {"cats_train": 2, "dogs_test": 2}}, "look like splits"),
        ({"train": {"a": 1, "b": 1, "cat": 1}, "test": {"Cat": 1}}, "doesn't have; there is cat"),
        ({"train": TWO, "test": {"a ": 1}}, "doesn't have; there is a"),
    ],
)
def test_what_is_doubtful_is_refused_with_what_is_right(
    tmp_path: Path, parts: dict[str, dict[str, int]], message: str
) -> None:
    make_folder(tmp_path, parts)
    with pytest.raises(InputError, match=message):
        scan(str(tmp_path))


@pytest.mark.parametrize("place", ["train/c", "test", "test/a"])
def test_a_class_or_split_that_is_a_link_to_nowhere_is_refused(tmp_path: Path, place: str) -> None:
    make_folder(tmp_path, {"train": TWO, **({} if place == "test" else {"test": {"b": 1}})})
    (tmp_path / place).symlink_to("nowhere")
    with pytest.raises(InputError, match=rf"{place} is a link that leads nowhere"):
        scan(str(tmp_path))


def test_images_right_under_the_root_are_no_classes(tmp_path: Path) -> None:
    make_folder(tmp_path, {".": {"x": 3}})
    with pytest.raises(InputError, match="fewer than two class folders; 3 images lie right in it"):
        scan(str(tmp_path / "x"))


def test_folders_beside_the_splits_and_images_beside_the_classes_are_said(tmp_path: Path) -> None:
    make_folder(tmp_path, {"train": TWO, "test": TWO, "holdout": TWO, ".": {"docs": 1}, "train/.": {}})
    (tmp_path / "train" / "stray.png").write_bytes(b"x")
    notes = "\n".join(scan(str(tmp_path)).notes)
    assert "docs" in notes
    assert "holdout left out: it has classes, but no split's name" in notes
    assert "1 images beside the class folders left out" in notes
    assert "stray.png" in notes


def test_folders_of_the_same_names_in_every_class_are_said(tmp_path: Path) -> None:
    make_folder(tmp_path, {"Original": {"cat": 1, "dog": 1}, "Augmented": {"cat": 1, "dog": 1}})
    assert any("not classes here" in note for note in scan(str(tmp_path)).notes)


@pytest.mark.parametrize("absent", [True, False])
def test_a_class_that_test_lacks_is_said_whether_its_folder_is_empty_or_absent(tmp_path: Path, absent: bool) -> None:
    make_folder(tmp_path, {"train": TWO, "test": {"a": 1} if absent else {"a": 1, "b": 0}})
    found = scan(str(tmp_path))
    assert counts(found) == {"train": 4, "test": 1}
    assert any("has no images of 1 class: b" in note for note in found.notes)


def test_a_train_class_without_images_is_refused_with_what_it_has(tmp_path: Path) -> None:
    make_folder(tmp_path, {"train": {"a": 2, "b": 0}})
    (tmp_path / "train/b/x.dcm").write_bytes(b"x")
    with pytest.raises(InputError, match=r"train/b has no images \(files of other kinds: .dcm 1\)"):
        scan(str(tmp_path))


def test_folders_of_runs_of_the_cache_and_of_python_are_no_classes(tmp_path: Path) -> None:
    make_folder(tmp_path, {".": TWO, "r": {"plots": 2}, "runs/out/x": {"plots": 1}, "b": {"old": 1}})
    for run in ("r", "runs/out/x", "b/old"):
        (tmp_path / run / "config.yaml").write_text("")
        (tmp_path / run / "run.log").write_text("")
    make_folder(tmp_path, {"bench/runs/a": {"plots": 1}, "venv": {"lib": 1}, "kept": {"features": 1}})
    (tmp_path / "bench/bench.yaml").write_text("")
    (tmp_path / "venv/pyvenv.cfg").write_text("")
    found = scan(str(tmp_path), own=[tmp_path / "kept"])
    assert found.classes == ("a", "b")
    assert len(found.paths) == 4
    assert any("folders of neuroevo's runs" in note and "bench" in note for note in found.notes)


def test_an_empty_folder_of_runs_is_no_class(tmp_path: Path) -> None:
    make_folder(tmp_path, {".": TWO})
    (tmp_path / "runs/out").mkdir(parents=True)
    assert scan(str(tmp_path)).classes == ("a", "b")


@pytest.mark.parametrize(
    ("at", "to"), [("a/up", ".."), ("a/up", "."), ("a/up", "../.."), ("up", "."), ("up", ".."), ("a/deep/up", "../..")]
)
def test_links_to_folders_above_are_left_out_and_said(tmp_path: Path, at: str, to: str) -> None:
    root = make_folder(tmp_path / "root", {".": TWO, "a": {"deep": 1}})
    (root / at).symlink_to(to)
    found = scan(str(root))
    assert (found.classes, len(found.paths)) == (("a", "b"), 5)
    assert any("links to folders above" in note and at in note for note in found.notes)


def test_two_links_to_each_other_end(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "root", {".": TWO})
    for name, other in (("x", "y"), ("y", "x")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "on").symlink_to(tmp_path / other)
        (tmp_path / name / "again").symlink_to(tmp_path / other)
    (root / "a/in").symlink_to(tmp_path / "x")
    assert len(scan(str(root)).paths) == 4


def test_links_to_elsewhere_work_for_roots_splits_classes_folders_and_files(tmp_path: Path) -> None:
    store = make_folder(tmp_path / "store", {"one": TWO, "two": TWO, "loose": {"c": 2}})
    root = tmp_path / "root"
    (root / "train").mkdir(parents=True)
    (root / "train/a").symlink_to(store / "one/a")
    (root / "train/b").mkdir()
    (root / "train/b/more").symlink_to(store / "one/b")
    (root / "train/b/z.png").symlink_to(store / "loose/c/000.png")
    (root / "test").symlink_to(store / "two")
    (tmp_path / "link").symlink_to(root)
    found = scan(str(tmp_path / "link"))
    assert counts(found) == {"train": 5, "test": 4}
    assert found.notes == ()


@pytest.mark.parametrize(
    ("at", "to"), [("a/more", "b"), ("c", "b"), ("a/one.png", "b/000.png"), ("test", "train"), ("test/a", "train/a")]
)
def test_a_file_that_links_bring_into_two_classes_or_splits_is_refused(tmp_path: Path, at: str, to: str) -> None:
    root = make_folder(tmp_path, {"train" if to.startswith("train") else ".": TWO})
    (root / at).parent.mkdir(exist_ok=True)
    (root / at).symlink_to(root / to)
    with pytest.raises(InputError, match="are one file, by a link, in two classes or splits"):
        scan(str(root))


def test_a_file_that_links_bring_twice_into_one_class_is_taken_once_and_said(tmp_path: Path) -> None:
    root = make_folder(tmp_path, {".": TWO, "a": {"deep": 1}})
    (root / "a/again.png").symlink_to("000.png")
    (root / "a/deeper").symlink_to("deep")
    found = scan(str(root))
    assert len(found.paths) == 5
    assert sum("taken once" in note for note in found.notes) == 2


def test_a_link_that_leads_nowhere_is_an_image_by_its_suffix_and_else_said(tmp_path: Path) -> None:
    root = make_folder(tmp_path, {".": TWO})
    (root / "a/gone.png").symlink_to("nowhere.png")
    (root / "a/self.jpg").symlink_to("self.jpg")
    (root / "a/gone").symlink_to("nowhere")
    found = scan(str(root))
    assert [Path(p).name for p in found.paths[2:4]] == ["gone.png", "self.jpg"]
    assert any("a/gone" in note for note in found.notes)


@pytest.mark.parametrize("place", ["", "train", "train/a", "train/a/deep", "other"])
def test_a_folder_that_cannot_be_read_is_refused_by_name(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_folder(tmp_path, {"train": TWO, "train/a": {"deep": 1}, "other": {}, "test": TWO})
    (tmp_path / "other").mkdir()
    real, closed = os.scandir, str(tmp_path / place).rstrip("/")

    def scandir(path: str) -> object:
        if os.fspath(path) == closed:
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(InputError, match=rf"{closed} can't be read \(Permission denied\)"):
        scan(str(tmp_path))


def test_fifos_sockets_and_devices_are_left_out_by_name_and_nothing_waits_for_them(tmp_path: Path) -> None:
    root = make_folder(tmp_path, {".": TWO})
    os.mkfifo(root / "a/x.png")
    os.mkfifo(root / "pipe")
    (root / "b/y.png").symlink_to(root / "a/x.png")
    (root / "b/null.png").symlink_to("/dev/null")
    with socket.socket(socket.AF_UNIX) as listening:
        here = Path.cwd()
        os.chdir(root / "a")  # a socket's path is short
        try:
            listening.bind("s.png")
        finally:
            os.chdir(here)
    found: list[Found] = []
    worker = threading.Thread(target=lambda: found.append(scan(str(root))), daemon=True)
    worker.start()
    worker.join(20)
    assert found
    assert len(found[0].paths) == 4
    assert any("no regular files" in note and "(5)" in note and "x.png" in note for note in found[0].notes)


def test_every_suffix_that_pillow_reads_counts_in_any_case_and_others_are_counted(tmp_path: Path) -> None:
    make_folder(tmp_path, {".": TWO})
    for name in ("1.JFIF", "2.avif", "3.NPY", "4.jp2", "5.TIFF", "6.jpe", "7.webp", "8.TgA", "9.mpo"):
        (tmp_path / "a" / name).write_bytes(b"x")
    for name in ("1.txt", "2.TXT", "x.json", "doc.pdf", "film.mpg", "a.eps", "set.h5", "README"):
        (tmp_path / "a" / name).write_bytes(b"x")
    found = scan(str(tmp_path))
    assert len(found.paths) == 4 + 9
    line = next(note for note in found.notes if "other kinds" in note)
    assert line == ("8 files of other kinds left out: .txt 2, .eps 1, .h5 1, .json 1, .mpg 1, .pdf 1, no suffix 1")


def test_what_systems_leave_behind_is_left_out_without_a_word(tmp_path: Path) -> None:
    make_folder(tmp_path, {".": TWO})
    junk = ["@eaDir", "__MACOSX", "$RECYCLE.BIN", "#recycle", "lost+found", ".ipynb_checkpoints", ".git"]
    for place in (tmp_path, tmp_path / "a"):
        for name in junk:
            (place / name).mkdir()
            (place / name / "000.png").write_bytes(b"x")
        for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._000.png", "0.png:Zone.Identifier", "Icon\r"):
            (place / name).write_bytes(b"x")
    found = scan(str(tmp_path))
    assert (found.classes, len(found.paths), found.notes) == (("a", "b"), 4, ())


def test_a_class_is_one_however_its_name_is_composed(tmp_path: Path) -> None:
    make_folder(tmp_path, {"train": {"cafe\u0301": 2, "tea": 2}, "test": {"caf\u00e9": 1, "tea": 1}})
    found = scan(str(tmp_path))
    assert found.classes == ("caf\u00e9", "tea")
    assert found.labels == [0, 0, 1, 1, 0, 1]
    assert scan_labelled(str(tmp_path / "train"), ("caf\u00e9", "tea")).labels == [0, 0, 1, 1]
    (tmp_path / "train/caf\u00e9").mkdir()
    with pytest.raises(InputError, match=r"two folders that are one class, .*'cafe\\u0301' and 'caf\\xe9'"):
        scan(str(tmp_path))


def test_a_class_name_that_is_not_utf8_is_refused_at_the_door(tmp_path: Path) -> None:
    make_folder(tmp_path, {".": {os.fsdecode(b"caf\xe9"): 1, "tea": 1}})
    for read in (lambda: scan(str(tmp_path)), lambda: scan_labelled(str(tmp_path), ("caf", "tea"))):
        with pytest.raises(InputError, match="the name of this class is not UTF-8; rename the folder"):
            read()


def test_odd_bytes_in_names_of_files_are_taken(tmp_path: Path) -> None:
    make_folder(tmp_path, {".": TWO})
    for name in (b"\xe9.png", b"a\nb.png", b"\x1b[0m.png"):
        Path(os.fsdecode(os.fsencode(tmp_path / "a") + b"/" + name)).write_bytes(b"x")
    assert len(scan(str(tmp_path)).paths) == 7


@pytest.mark.parametrize("root", ["/nowhere", "/dev/null", "a\0b"])
def test_a_root_that_is_no_folder_is_refused(root: str) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        scan(root)


@pytest.mark.parametrize("test", ["test", "Testing", "seg_test/seg_test", "."])
def test_other_labelled_images_are_found_in_a_test_folder_of_any_name(tmp_path: Path, test: str) -> None:
    make_folder(tmp_path, {test: {"c": 2, "a": 1}, **({} if test == "." else {"train": {"a": 1, "c": 1}})})
    found = scan_labelled(str(tmp_path), ("a", "b", "c"))
    assert found.labels == [0, 2, 2]
    with pytest.raises(
        InputError,
        match="class c, which the run doesn't know; there is C: rename one of them; the run's classes are a, C",
    ):
        scan_labelled(str(tmp_path), ("a", "C"))


def test_classes_of_a_run_win_over_names_of_splits(tmp_path: Path) -> None:
    make_folder(tmp_path, {".": {"test": 1, "train": 2}})
    assert scan_labelled(str(tmp_path), ("bus", "test", "train")).labels == [1, 2, 2]


def test_paths_come_class_by_class_files_before_folders(tmp_path: Path) -> None:
    make_folder(tmp_path, {".": {"b": 1, "a": 2}, "a": {"B": 1, "A": 1}})
    names = [str(Path(p).relative_to(tmp_path)) for p in scan(str(tmp_path)).paths]
    assert names == ["a/000.png", "a/001.png", "a/A/000.png", "a/B/000.png", "b/000.png"]


@pytest.mark.parametrize("inner", ["test", "val", "Testing"])
def test_a_split_inside_another_beside_its_classes_is_refused(tmp_path: Path, inner: str) -> None:
    make_folder(tmp_path, {"train": {"cat": 4, "dog": 4}, f"train/{inner}": {"cat": 2, "dog": 2}})
    with pytest.raises(InputError, match=f"has {inner} beside its classes"):
        scan(str(tmp_path))


def test_what_somebody_hid_is_said_and_what_systems_hide_is_not(tmp_path: Path) -> None:
    make_folder(tmp_path, {"": {"cat": 4, "dog": 4, ".net": 3, ".ipynb_checkpoints": 2}})
    (tmp_path / "cat" / ".hid.png").write_bytes((tmp_path / "cat" / "000.png").read_bytes())
    (tmp_path / "cat" / "._000.png").write_bytes(b"x")
    found = scan(str(tmp_path))
    assert found.classes == ("cat", "dog")
    (note,) = (note for note in found.notes if "hidden" in note)
    assert ".net" in note
    assert ".hid.png" in note
    assert not any(".ipynb" in note or "._000" in note for note in found.notes)
