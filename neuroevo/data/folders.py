"""A data set in folders, read as a person means it: its splits, classes and images come out as plain lists.

Split folders are known by their usual names in any case, with or without words such as `images` about them. What is
left out is said in a note, what is doubtful is refused with the layout that would be right. Links are followed, but
nothing is taken twice: not a folder above, not one file for two classes or splits.
"""

import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from neuroevo.data.classfolders import check_shape, find_classes, take_images, why_no_classes
from neuroevo.data.foldernames import LAYOUT, SPLITS, all_in
from neuroevo.data.splitfolders import find_splits, innermost, say_extra, split_folder
from neuroevo.data.walk import Walk, few
from neuroevo.errors import the


class Found(NamedTuple):
    """The images under a root, and the folders that they came from."""

    classes: tuple[str, ...]
    paths: list[str]
    labels: list[int]  # of each path
    part: list[int]  # of each path: its index in SPLITS, or -1 where that is to be chosen
    folders: dict[str, str]  # {split: the folder that serves it, or what it is cut from}
    notes: tuple[str, ...]  # a line about each kind of thing that was left out, or may surprise
    groups: list[str] | None = None  # of each path, where asked for


def scan(root: str, own: Iterable[str | os.PathLike[str]] = (), *, groups: bool = False) -> Found:
    """Return the images of class folders under split folders, or right under the root; InputError where it is doubtful.

    Folders in `own` are left out, and those of neuroevo's runs. With `groups` the images of each class are in folders
    of groups.
    """
    walk = Walk(root, own)
    top = innermost(walk, root)
    splits = find_splits(walk, top)
    if splits and "train" not in splits:
        names = " and ".join(splits.values())
        walk.refuse(
            f"{top} has {names} but no train folder; right is {LAYOUT} (classes of such names: all under train)"
        )
    chosen = {split: split_folder(walk, os.path.join(top, name)) for split, name in splits.items()}
    if splits:
        say_extra(walk, top, splits.values(), chosen["train"])
    if len(chosen) == 2:  # two parts only: the second is the test split, whatever its name
        second = chosen.get("test") or chosen["validation"]
        if "test" not in chosen:
            walk.notes.append(f"no test folder: {second} serves as test")
        chosen = {"train": chosen["train"], "test": second}
    if len(chosen) < 2:
        chosen = {"pool": chosen.get("train", top)}
    first, *later = chosen
    own_classes = find_classes(walk, chosen[first])
    check_shape(walk, chosen[first], own_classes)
    images, inside = {first: take_images(walk, chosen[first], own_classes, first)}, {first: own_classes}
    known = tuple(images[first])
    if len(known) < 2:
        walk.refuse(f"{chosen[first]} has fewer than two class folders{why_no_classes(walk, chosen[first])}")
    for split in later:
        inside[split] = find_classes(walk, chosen[split])
        images[split] = take_images(walk, chosen[split], inside[split], split, known)
    of = [
        group
        for split in images
        for group in (group_names(walk, images[split], inside[split], needed=True) or () if groups else ())
    ]
    paths: list[str] = []
    labels: list[int] = []
    part: list[int] = []
    for split, of_split in images.items():
        for name, files in of_split.items():
            paths += files
            labels += [known.index(name)] * len(files)
            part += [SPLITS.index(split) if split in SPLITS else -1] * len(files)
    source = chosen[first]
    folders = {split: chosen.get(split, f"cut from {source}") for split in SPLITS}
    return Found(known, paths, labels, part, folders, walk.all_notes(), of if groups else None)


def group_names(
    walk: Walk, images: Mapping[str, Sequence[str]], folders: Mapping[str, str], *, needed: bool
) -> list[str] | None:
    """Return the group of each class's images, the folder within the class's; InputError for one that is in none.

    None where none at all is, and groups aren't `needed`.
    """
    pairs = [(path, os.path.relpath(path, folders[name])) for name, files in images.items() for path in files]
    outside = [path for path, inner in pairs if os.sep not in inner]
    if outside and not needed and len(outside) == len(pairs):
        walk.notes.append("no folders of groups: what asks for groups is left out")
        return None
    if outside:
        walk.refuse(
            f"{outside[0]} lies right in its class folder; with {the('groups')} it would be in the folder of its "
            "group, class/group/image"
        )
    return [unicodedata.normalize("NFC", Path(inner).parts[0]) for _, inner in pairs]


def scan_labelled(
    root: str, classes: Sequence[str], own: Iterable[str | os.PathLike[str]] = (), *, groups: bool = False
) -> Found:
    """Return the images of class folders right under a root, or under its test folder; InputError for other classes."""
    walk = Walk(root, own)
    top = innermost(walk, root, classes)
    if not all_in(walk.folders(top), classes):
        splits = find_splits(walk, top)
        second = splits.get("test") or ("train" in splits and splits.get("validation"))
        if second and "test" not in splits:
            walk.notes.append(f"no test folder: {os.path.join(top, second)} serves as test")
        if second:
            say_extra(walk, top, splits.values(), os.path.join(top, second))
            top = split_folder(walk, os.path.join(top, second))
    names = find_classes(walk, top)
    if not names:
        walk.refuse(f"{top} has no class folders{why_no_classes(walk, top)}; the run's classes are {few(classes, 20)}")
    images = take_images(walk, top, names, "test", classes, of_run=True)
    paths = [path for files in images.values() for path in files]
    labels = [list(classes).index(name) for name, files in images.items() for _ in files]
    of = group_names(walk, images, names, needed=False) if groups else None
    return Found(tuple(classes), paths, labels, [2] * len(paths), {"test": top}, walk.all_notes(), of)
