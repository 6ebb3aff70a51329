"""The class folders of a walk, and their images; InputError where a folder can't be a class."""

import os
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from neuroevo.data.foldernames import LAYOUT, PARTS, letters, likeness, role
from neuroevo.data.walk import SPECIAL, Walk, few, say_count, say_kinds
from neuroevo.errors import the


def check_shape(walk: Walk, folder: str, classes: Mapping[str, str]) -> None:
    """Refuse classes that hold splits, or are parts of a data set; note those that hold the same folders."""
    inside = {path: walk.folders(path) for path in classes.values()}
    for path, names in inside.items():
        found = {its[0]: name for name in names if (its := role(name)) and not its[1]}
        if len(found) > 1:
            name = os.path.basename(path)
            first, second = list(found.values())[:2]
            right = f"{os.path.join(folder, first, name)} and {os.path.join(folder, second, name)}"
            walk.refuse(
                f"{path} has {first} and {second} inside, which look like splits; splits come first, as {right}. "
                f"If {name} is the data set, give {the('root')} {path}"
            )
    shared = set.intersection(*map(set, inside.values())) if inside else set()
    if len(inside) < 2 or not shared or any(walk.look(path).images for path in inside):
        return
    names = [os.path.basename(path) for path in inside]
    if all(PARTS.fullmatch(letters(name)) for name in names):
        walk.refuse(
            f"{folder} has {few(names)}, each with folders {few(sorted(shared))}: they look like parts of a data "
            f"set, and not like classes; right is {LAYOUT}"
        )
    if all(len(found) > 1 and set(found) == shared for found in inside.values()):
        walk.notes.append(
            f"classes are {few(names)}; each has folders {few(sorted(shared))}, which are not classes here. If "
            f"they should be, right is {LAYOUT}"
        )


def find_classes(walk: Walk, folder: str) -> dict[str, str]:
    """Return the class folders in a folder, {name in NFC: path}, sorted; InputError for a name that can't be."""
    found: dict[str, str] = {}
    refuse_dangling(walk, folder, walk.look(folder).special)
    for name in walk.look(folder).special:
        walk.leave(SPECIAL, os.path.join(folder, name))
    for name in walk.folders(folder):
        path = os.path.join(folder, name)
        try:
            name.encode()
        except UnicodeEncodeError:
            walk.refuse(f"{path}: the name of this class is not UTF-8; rename the folder")
        normal = unicodedata.normalize("NFC", name)
        if normal in found:
            walk.refuse(
                f"{folder} has two folders that are one class, {normal}, written in two ways "
                f"({os.path.basename(found[normal])!a} and {name!a}); join them"
            )
        found[normal] = path
    if found and walk.look(folder).images:
        count = len(walk.look(folder).images)
        where = os.path.join(folder, walk.look(folder).images[0])
        walk.notes.append(f"{count} images beside the class folders left out: {where}{' ...' * (count > 1)}")
    return dict(sorted(found.items()))


def refuse_dangling(walk: Walk, folder: str, names: Iterable[str]) -> None:
    """Raise InputError where one of the names in a folder is a link that leads nowhere."""
    for name in names:
        path = os.path.join(folder, name)
        if name in walk.look(folder).links and not Path(path).exists():
            walk.refuse(f"{path} is a link that leads nowhere; mend or remove it")


def take_images(
    walk: Walk,
    folder: str,
    classes: Mapping[str, str],
    split: str,
    known: Collection[str] | None = None,
    *,
    of_run: bool = False,
) -> dict[str, list[str]]:
    """Return the images of each class that has some; InputError for one that isn't known, or has none in train.

    Classes are `known` by the train split, or `of_run`.
    """
    found: dict[str, list[str]] = {}
    for name, path in classes.items():
        before = Counter(walk.others)
        images, runs = walk.images(path, f"{split} {name}")
        if not images and runs:
            continue
        kinds = walk.others - before
        if not images and known is None:
            what = f" (files of other kinds: {say_kinds(kinds)})" if kinds else ""
            walk.refuse(f"{path} has no images{what}; if it is no class, move it elsewhere")
        if images and known is not None and name not in known:
            like = [other for other in known if likeness(other) == likeness(name)]
            hint = f"; there is {like[0]}: rename one of them" if like else ""
            if not of_run:
                walk.refuse(f"{path} is a class that the train split doesn't have{hint}")
            walk.refuse(
                f"{folder} has class {name}, which the run doesn't know{hint}; the run's classes are "
                f"{few(list(known), 20)}"
            )
        if images:
            found[name] = images
    if known is not None:
        if not found:
            walk.refuse(f"{folder} has no images in class folders")
        missing = [name for name in known if name not in found]
        if missing and not of_run:
            walk.notes.append(f"{folder} has no images of {say_count(missing, 'class')}: {few(missing)}")
    return found


def why_no_classes(walk: Walk, folder: str) -> str:
    """Return the reason in words why a folder has no class folders, with the layout that would be right."""
    count = len(walk.look(folder).images)
    return f"; {count} images lie right in it: right is {LAYOUT}" if count else f"; right is {LAYOUT}"
