"""The split folders of a walk, by their usual names; InputError with the right layout where they are doubtful."""

import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from neuroevo.data.classfolders import refuse_dangling
from neuroevo.data.foldernames import FILLER, LAYOUT, SPLITS, all_in, letters, role
from neuroevo.data.walk import Walk, few
from neuroevo.errors import the


def innermost(walk: Walk, root: str, classes: Collection[str] = ()) -> str:
    """Return the root, or where it has nothing but one folder of folders, that one."""
    top = root
    for _ in range(3):
        names = walk.folders(top)
        if len(names) != 1 or walk.look(top).images or role(names[0]) or all_in(names, classes):
            break
        below = os.path.join(top, names[0])
        if not walk.folders(below) or walk.look(below).images:
            break
        top = below
    if top != root:
        walk.notes.append(f"{root} has one folder only: what is in {top} is taken")
    return top


def find_splits(walk: Walk, top: str) -> dict[str, str]:
    """Return the name of the folder of each split in a folder, {} where it has class folders."""
    names = walk.folders(top)
    refuse_dangling(walk, top, (name for name in walk.look(top).special if role(name)))
    about = {name: its for name in names if (its := role(name))}
    plain = {name: split for name, (split, rest) in about.items() if not rest}
    if not plain:
        # cats_train and cats_test: what else they say is the same.
        groups: dict[str, dict[str, str]] = {}
        for name, (split, rest) in about.items():
            groups.setdefault(rest, {})[name] = split
        several = [group for group in groups.values() if len(set(group.values())) > 1]
        if len(several) == 1 and "train" in several[0].values():
            plain = several[0]
        elif len({split for split, _ in about.values()}) > 1:
            walk.refuse(f"{top} has folders that look like splits ({few(list(about))}); right is {LAYOUT}")
    found: dict[str, str] = {}
    for split in SPLITS:
        own = [name for name, its in plain.items() if its == split]
        if len(own) > 1:
            walk.refuse(f"{top} has {own[0]} and {own[1]}: which is the {split} split? Move the other elsewhere")
        if own:
            found[split] = own[0]
    if "train" in found:
        _refuse_doubtful(walk, top, found, about)
    return found


def _refuse_doubtful(walk: Walk, top: str, found: Mapping[str, str], about: Mapping[str, tuple[str, str]]) -> None:
    inside = {name: set(walk.folders(os.path.join(top, name))) for name in walk.folders(top)}
    train = inside[found["train"]]
    for name, (split, rest) in about.items():
        if rest and split not in found and inside[name] & train:
            walk.refuse(f"{top} has {name}: if it is the {split} split, rename it to {split}, else move it elsewhere")
    beside = [name for name in inside if name not in found.values() and walk.look(os.path.join(top, name)).images]
    if len(found) == 1 and not train and walk.look(os.path.join(top, found["train"])).images and beside:
        walk.refuse(
            f"{top} has {found['train']} beside {few(beside)}: if all are classes, put them under one folder "
            f"train ({os.path.join(top, 'train', found['train'])}); if it is the train split, right is {LAYOUT}"
        )


def split_folder(walk: Walk, folder: str) -> str:
    """Return the folder whose folders are classes: a split's, or the one of the same meaning nested in it."""
    split = role(os.path.basename(folder))
    names = walk.folders(folder)
    while len(names) == 1 and not walk.look(folder).images:
        inner, below = role(names[0]), os.path.join(folder, names[0])
        same = inner is not None and split is not None and inner[0] == split[0]
        if not same and not (re.fullmatch(f"(?:{FILLER})+", letters(names[0])) and walk.folders(below)):
            break
        folder, names = below, walk.folders(below)
    splits = _plain(names)
    if len(splits) > 1:
        walk.refuse(f"{folder} has {few(names)} inside: if it is the data set, give {the('root')} {folder}")
    for name in names:
        about = role(name)
        below = os.path.join(folder, name)
        if about and not about[1] and set(walk.folders(below)) & {*names} - {name}:
            walk.refuse(f"{folder} has {name} beside its classes, with folders of their names in it; right is {LAYOUT}")
    if not names and walk.look(folder).images:
        count = len(walk.look(folder).images)
        walk.refuse(
            f"{folder} has {count} images but no class folders, so nobody knows their classes; right is {LAYOUT}. "
            "Move it elsewhere if its images have no labels"
        )
    return folder


def _plain(names: Sequence[str]) -> dict[str, str]:
    """Return {split: name} where all the names are those of splits and of nothing besides, else {}."""
    about = [role(name) for name in names]
    return (
        {its[0]: name for its, name in zip(about, names, strict=True) if its}
        if all(its and not its[1] for its in about)
        else {}
    )


def say_extra(walk: Walk, top: str, taken: Iterable[str], train: str) -> None:
    """Note the folders beside those of splits."""
    taken, classes = set(taken), set(walk.folders(train))
    for name in walk.folders(top):
        if name not in taken:
            path = os.path.join(top, name)
            if classes & set(walk.folders(path)):
                walk.notes.append(f"extra folder {path} left out: it has classes, but no split's name")
            else:
                walk.leave("extra folders left out", path)
