"""Which folders are splits and classes and which files are images, read as a person means them; plain lists come out.

Split folders are known by their usual names in any case, with or without words such as `images` about them. What is
left out is said in a note, what is doubtful is refused with the layout that would be right. Links are followed, but
nothing is taken twice: not a folder above, not one file for two classes or splits.
"""

import errno
import os
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple, NoReturn

from neuroevo.data.images import FORMATS
from neuroevo.errors import InputError, the

SPLITS = ("train", "validation", "test")
LAYOUT = "<root>/train/<class>/ and <root>/test/<class>/, or <root>/<class>/"

WORDS = {
    "train": "trainval|traindev|training|train|trn",
    "validation": "validation|validate|valid|val|evaluation|eval|development|dev",
    "test": "testing|test|tst",
}
# Words about a split's name that say nothing.
FILLER = (
    "images?|imgs?|pictures?|pics?|photos?|files?|folders?|dirs?|director(?:y|ies)|data|datasets?|sets?|subsets?|"
    "splits?|parts?|samples?|seg|cls|classification|classes|the|my|new|all|raw|final|jpe?gs?|pngs?"
)
NAMES = {split: re.compile(f"(?:{FILLER})*(?:{words})(?:{FILLER})*") for split, words in WORDS.items()}
PARTS = re.compile("(?:folds?|cv|kfold|splits?|parts?|subsets?|sets?|batch|batches|chunks?|shards?)")

# What systems leave behind beside images; nobody means these.
JUNK = {
    "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "@recycle", "#recycle", "#snapshot",
    "@recently-snapshot",
    "$recycle.bin", "system volume information", "lost+found", "__pycache__", "node_modules",
}  # fmt: skip
DOTTED = {
    ".ds_store", ".appledouble", ".spotlight-v100", ".fseventsd", ".temporaryitems", ".documentrevisions-v100",
    ".thumbnails", ".cache", ".picasaoriginals", ".ipynb_checkpoints", ".venv", ".idea", ".vscode", ".dvc", ".svn",
    ".hg",
}  # fmt: skip
JUNK_ENDS = ("@synoeastream", "@synoresource", ":zone.identifier")
RUN = {"checkpoints", "history.jsonl", "run.log", "result.json", ".lock"}  # beside config.yaml: a run's folder
OWN = "folders of neuroevo's runs or cache, or of Python, left out"
SPECIAL = "left out, as no regular files (FIFOs, sockets, devices, links that lead nowhere)"
SHOWN, EXTRA = 3, 10  # examples in a note, and folders named that are left out beside splits


class Found(NamedTuple):
    """What there is under a root."""

    classes: tuple[str, ...]
    paths: list[str]
    labels: list[int]  # of each path
    part: list[int]  # of each path: its index in SPLITS, or -1 where that is to be chosen
    folders: dict[str, str]  # {split: the folder that serves it, or what it is cut from}
    notes: tuple[str, ...]  # a line about each kind of thing that was left out, or may surprise


@cache
def suffixes() -> frozenset[str]:
    """Return the suffixes of image files: of the formats that are read, and .npy."""
    from PIL import Image

    Image.init()
    known = Image.registered_extensions().items()
    return frozenset({".npy", ".mpo"} | {end for end, name in known if name in Image.OPEN and name in FORMATS})


def is_image(name: str) -> bool:
    """Tell by its suffix, in any case, whether a file is an image."""
    return os.path.splitext(name)[1].lower() in suffixes()


def is_junk(name: str) -> bool:
    """Tell whether a file or folder is left behind by a system, or hidden."""
    return name.startswith(".") or name.casefold() in JUNK or name.casefold().endswith(JUNK_ENDS)


def is_hidden(name: str) -> bool:
    """Tell whether somebody may have hidden a file or folder on purpose: no system is known to leave such a one."""
    lower = name.casefold()
    return name.startswith(".") and lower not in DOTTED and not lower.startswith(("._", ".trash", ".git", ".nfs"))


def role(name: str) -> tuple[str, str] | None:
    """Return the split that a folder's name speaks of, and what else it says ("" for nothing); None where it doesn't.

    Train2017, Training, seg_train and images-train are the train split and no more; cats_train says cats besides.
    """
    plain = unicodedata.normalize("NFKC", name)
    letters = _letters(plain)
    for split, pattern in NAMES.items():
        if pattern.fullmatch(letters):
            return split, ""
    words = re.split(r"[\W_]+", re.sub(r"(?<=[a-z])(?=[A-Z0-9])", " ", plain).casefold())
    about = {word: split for word in words for split in SPLITS if re.fullmatch(WORDS[split], word)}
    if len(set(about.values())) != 1:
        return None
    return next(iter(about.values())), " ".join(word for word in words if word and word not in about)


def scan(root: str, own: Iterable[str | os.PathLike[str]] = ()) -> Found:
    """Return the images of class folders under split folders, or right under the root; InputError where it is doubtful.

    Folders in `own` are left out, and those of neuroevo's runs.
    """
    walk = Walk(root, own)
    top = walk.innermost(root)
    splits = walk.splits(top)
    if splits and "train" not in splits:
        names = " and ".join(splits.values())
        walk.refuse(
            f"{top} has {names} but no train folder; right is {LAYOUT} (classes of such names: all under train)"
        )
    chosen = {split: walk.split_folder(os.path.join(top, name)) for split, name in splits.items()}
    if splits:
        walk.say_extra(top, splits.values(), chosen["train"])
    if len(chosen) == 2:  # two parts only: the second is the test split, whatever its name
        second = chosen.get("test") or chosen["validation"]
        if "test" not in chosen:
            walk.notes.append(f"no test folder: {second} serves as test")
        chosen = {"train": chosen["train"], "test": second}
    if len(chosen) < 2:
        chosen = {"pool": chosen.get("train", top)}
    first, *later = chosen
    own_classes = walk.classes(chosen[first])
    walk.say_shape(chosen[first], own_classes)
    images = {first: walk.take(chosen[first], own_classes, first)}
    known = tuple(images[first])
    if len(known) < 2:
        walk.refuse(f"{chosen[first]} has fewer than two class folders{walk.why_no_classes(chosen[first])}")
    for split in later:
        images[split] = walk.take(chosen[split], walk.classes(chosen[split]), split, known)
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
    return Found(known, paths, labels, part, folders, walk.said())


def scan_labelled(root: str, classes: Sequence[str], own: Iterable[str | os.PathLike[str]] = ()) -> Found:
    """Return the images of class folders right under a root, or under its test folder; InputError for other classes."""
    walk = Walk(root, own)
    top = walk.innermost(root, classes)
    if not _all_in(walk.folders(top), classes):
        splits = walk.splits(top)
        second = splits.get("test") or ("train" in splits and splits.get("validation"))
        if second and "test" not in splits:
            walk.notes.append(f"no test folder: {os.path.join(top, second)} serves as test")
        if second:
            walk.say_extra(top, splits.values(), os.path.join(top, second))
            top = walk.split_folder(os.path.join(top, second))
    names = walk.classes(top)
    if not names:
        walk.refuse(f"{top} has no class folders{walk.why_no_classes(top)}; the run's classes are {_few(classes, 20)}")
    images = walk.take(top, names, "test", classes, of_run=True)
    paths = [path for files in images.values() for path in files]
    labels = [list(classes).index(name) for name, files in images.items() for _ in files]
    return Found(tuple(classes), paths, labels, [2] * len(paths), {"test": top}, walk.said())


class Listing(NamedTuple):
    """What a person sees in a folder: names, sorted."""

    folders: list[str]
    images: list[str]  # regular files, or links that lead nowhere
    others: list[str]  # regular files of other kinds
    special: list[str]  # FIFOs, sockets, devices, links to folders that lead nowhere
    links: set[str]  # those among all of these that are links
    own: bool  # a folder of neuroevo's, or of a Python environment


class Walk:
    """A walk below one root, which remembers what it took and what it left out."""

    def __init__(self, root: str, own: Iterable[str | os.PathLike[str]] = ()) -> None:
        self.own = {os.path.realpath(path) for path in own}
        self.notes: list[str] = []
        self.others: Counter[str] = Counter()  # files of other kinds, by suffix
        self.left: dict[str, list[str]] = {}  # {why: paths}
        self.seen: dict[str, tuple[str, str]] = {}  # {real path: (its split and class, its path)}
        self.listings: dict[str, Listing] = {}  # of folders that were looked into for their shape
        if "\0" in root or not os.path.lexists(root):
            self.refuse(f"{root} is not a folder")
        self.root = os.path.realpath(root)
        self.look(root)

    def refuse(self, line: str) -> NoReturn:
        """Raise InputError about the root."""
        raise InputError(line, option="root")

    def leave(self, why: str, path: str) -> None:
        """Remember that a path was left out."""
        if path not in self.left.setdefault(why, []):
            self.left[why].append(path)

    def look(self, folder: str) -> Listing:
        """Return what is in a folder; InputError where it can't be read."""
        if folder not in self.listings:
            self.listings[folder] = self._list(folder)
        return self.listings[folder]

    def _list(self, folder: str) -> Listing:
        found = Listing([], [], [], [], set(), os.path.realpath(folder) in self.own)
        names = set()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    names.add(entry.name)
                    if not is_junk(entry.name):
                        self._sort(entry, found)
                    elif is_hidden(entry.name) and (is_image(entry.name) or entry.is_dir(follow_symlinks=False)):
                        self.leave("hidden, left out", entry.path)
        except (NotADirectoryError, FileNotFoundError):
            self.refuse(f"{folder} is not a folder")
        except OSError as error:
            self.refuse(f"{error.filename or folder} can't be read ({error.strerror or error}); mend or remove it")
        for part in found[:4]:
            part.sort()
        where = os.path.split(os.path.realpath(folder))
        runs = where[1] == "out" and os.path.basename(where[0]) == "runs" and not found.images  # perhaps empty by now
        own = runs or "bench.yaml" in names or "pyvenv.cfg" in names or ("config.yaml" in names and bool(names & RUN))
        return found._replace(own=found.own or own)

    def _sort(self, entry: "os.DirEntry[str]", found: Listing) -> None:
        image = is_image(entry.name)
        if not entry.is_symlink():  # as the folder's own table has it: no call for each file
            folder, file = entry.is_dir(follow_symlinks=False), entry.is_file(follow_symlinks=False)
        else:
            found.links.add(entry.name)
            try:
                mode = os.stat(entry.path).st_mode
                folder, file = stat.S_ISDIR(mode), stat.S_ISREG(mode)
            except OSError as error:
                nowhere = error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR)
                if not nowhere and not (image and error.errno in (errno.EACCES, errno.EPERM)):
                    raise
                folder, file = False, image  # an image that leads nowhere is a broken image
        place = found.folders if folder else found.special if not file else found.images if image else found.others
        place.append(entry.name)

    def folders(self, folder: str) -> list[str]:
        """Return the names of the folders in a folder that a person would count."""
        return [name for name in self.look(folder).folders if self._counts(folder, name)]

    def _counts(self, folder: str, name: str) -> bool:
        path = os.path.join(folder, name)
        if name in self.look(folder).links and self._above(os.path.realpath(path), os.path.realpath(folder)):
            self.leave("links to folders above left out", path)
            return False
        if self.look(path).own:
            self.leave(OWN, path)
            return False
        return True

    def _above(self, target: str, folder: str) -> bool:
        return _within(folder, target) or _within(self.root, target)

    def innermost(self, root: str, classes: Collection[str] = ()) -> str:
        """Return the root, or where it has nothing but one folder of folders, that one."""
        top = root
        for _ in range(3):
            names = self.folders(top)
            if len(names) != 1 or self.look(top).images or role(names[0]) or _all_in(names, classes):
                break
            below = os.path.join(top, names[0])
            if not self.folders(below) or self.look(below).images:
                break
            top = below
        if top != root:
            self.notes.append(f"{root} has one folder only: what is in {top} is taken")
        return top

    def splits(self, top: str) -> dict[str, str]:
        """Return the name of the folder of each split in a folder, {} where it has class folders."""
        names = self.folders(top)
        self._refuse_dangling(top, (name for name in self.look(top).special if role(name)))
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
                self.refuse(f"{top} has folders that look like splits ({_few(list(about))}); right is {LAYOUT}")
        found: dict[str, str] = {}
        for split in SPLITS:
            own = [name for name, its in plain.items() if its == split]
            if len(own) > 1:
                self.refuse(f"{top} has {own[0]} and {own[1]}: which is the {split} split? Move the other elsewhere")
            if own:
                found[split] = own[0]
        if "train" in found:
            self._refuse_doubtful(top, found, about)
        return found

    def _refuse_doubtful(self, top: str, found: Mapping[str, str], about: Mapping[str, tuple[str, str]]) -> None:
        inside = {name: set(self.folders(os.path.join(top, name))) for name in self.folders(top)}
        train = inside[found["train"]]
        for name, (split, rest) in about.items():
            if rest and split not in found and inside[name] & train:
                self.refuse(
                    f"{top} has {name}: if it is the {split} split, rename it to {split}, else move it elsewhere"
                )
        beside = [name for name in inside if name not in found.values() and self.look(os.path.join(top, name)).images]
        if len(found) == 1 and not train and self.look(os.path.join(top, found["train"])).images and beside:
            self.refuse(
                f"{top} has {found['train']} beside {_few(beside)}: if all are classes, put them under one folder "
                f"train ({os.path.join(top, 'train', found['train'])}); if it is the train split, right is {LAYOUT}"
            )

    def split_folder(self, folder: str) -> str:
        """Return the folder whose folders are classes: a split's, or the one of the same meaning nested in it."""
        split = role(os.path.basename(folder))
        names = self.folders(folder)
        while len(names) == 1 and not self.look(folder).images:
            inner, below = role(names[0]), os.path.join(folder, names[0])
            same = inner is not None and split is not None and inner[0] == split[0]
            if not same and not (re.fullmatch(f"(?:{FILLER})+", _letters(names[0])) and self.folders(below)):
                break
            folder, names = below, self.folders(below)
        splits = self.plain(names)
        if len(splits) > 1:
            self.refuse(f"{folder} has {_few(names)} inside: if it is the data set, give {the('root')} {folder}")
        for name in names:
            about = role(name)
            below = os.path.join(folder, name)
            if about and not about[1] and set(self.folders(below)) & {*names} - {name}:
                self.refuse(
                    f"{folder} has {name} beside its classes, with folders of their names in it; right is {LAYOUT}"
                )
        if not names and self.look(folder).images:
            count = len(self.look(folder).images)
            self.refuse(
                f"{folder} has {count} images but no class folders, so nobody knows their classes; right is {LAYOUT}. "
                "Move it elsewhere if its images have no labels"
            )
        return folder

    def plain(self, names: Sequence[str]) -> dict[str, str]:
        """Return {split: name} where all the names are those of splits and of nothing besides, else {}."""
        about = [role(name) for name in names]
        return (
            {its[0]: name for its, name in zip(about, names, strict=True) if its}
            if all(its and not its[1] for its in about)
            else {}
        )

    def say_extra(self, top: str, taken: Iterable[str], train: str) -> None:
        """Note the folders beside those of splits."""
        taken, classes = set(taken), set(self.folders(train))
        for name in self.folders(top):
            if name not in taken:
                path = os.path.join(top, name)
                if classes & set(self.folders(path)):
                    self.notes.append(f"extra folder {path} left out: it has classes, but no split's name")
                else:
                    self.leave("extra folders left out", path)

    def say_shape(self, folder: str, classes: Mapping[str, str]) -> None:
        """Refuse classes that hold splits, or are parts of a data set; note those that hold the same folders."""
        inside = {path: self.folders(path) for path in classes.values()}
        for path, names in inside.items():
            found = {its[0]: name for name in names if (its := role(name)) and not its[1]}
            if len(found) > 1:
                name = os.path.basename(path)
                first, second = list(found.values())[:2]
                right = f"{os.path.join(folder, first, name)} and {os.path.join(folder, second, name)}"
                self.refuse(
                    f"{path} has {first} and {second} inside, which look like splits; splits come first, as {right}. "
                    f"If {name} is the data set, give {the('root')} {path}"
                )
        shared = set.intersection(*map(set, inside.values())) if inside else set()
        if len(inside) < 2 or not shared or any(self.look(path).images for path in inside):
            return
        names = [os.path.basename(path) for path in inside]
        if all(PARTS.fullmatch(_letters(name)) for name in names):
            self.refuse(
                f"{folder} has {_few(names)}, each with folders {_few(sorted(shared))}: they look like parts of a data "
                f"set, and not like classes; right is {LAYOUT}"
            )
        if all(len(found) > 1 and set(found) == shared for found in inside.values()):
            self.notes.append(
                f"classes are {_few(names)}; each has folders {_few(sorted(shared))}, which are not classes here. If "
                f"they should be, right is {LAYOUT}"
            )

    def classes(self, folder: str) -> dict[str, str]:
        """Return the class folders in a folder, {name in NFC: path}, sorted; InputError for a name that can't be."""
        found: dict[str, str] = {}
        self._refuse_dangling(folder, self.look(folder).special)
        for name in self.look(folder).special:
            self.leave(SPECIAL, os.path.join(folder, name))
        for name in self.folders(folder):
            path = os.path.join(folder, name)
            try:
                name.encode()
            except UnicodeEncodeError:
                self.refuse(f"{path}: the name of this class is not UTF-8; rename the folder")
            normal = unicodedata.normalize("NFC", name)
            if normal in found:
                self.refuse(
                    f"{folder} has two folders that are one class, {normal}, written in two ways "
                    f"({os.path.basename(found[normal])!a} and {name!a}); join them"
                )
            found[normal] = path
        if found and self.look(folder).images:
            count = len(self.look(folder).images)
            where = os.path.join(folder, self.look(folder).images[0])
            self.notes.append(f"{count} images beside the class folders left out: {where}{' ...' * (count > 1)}")
        return dict(sorted(found.items()))

    def _refuse_dangling(self, folder: str, names: Iterable[str]) -> None:
        for name in names:
            path = os.path.join(folder, name)
            if name in self.look(folder).links and not Path(path).exists():
                self.refuse(f"{path} is a link that leads nowhere; mend or remove it")

    def take(
        self,
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
            before = Counter(self.others)
            images, runs = self.images(path, f"{split} {name}")
            if not images and runs:
                continue
            kinds = self.others - before
            if not images and known is None:
                what = f" (files of other kinds: {_kinds(kinds)})" if kinds else ""
                self.refuse(f"{path} has no images{what}; if it is no class, move it elsewhere")
            if images and known is not None and name not in known:
                like = [other for other in known if _alike(other) == _alike(name)]
                hint = f"; there is {like[0]}: rename one of them" if like else ""
                if not of_run:
                    self.refuse(f"{path} is a class that the train split doesn't have{hint}")
                self.refuse(
                    f"{folder} has class {name}, which the run doesn't know{hint}; the run's classes are "
                    f"{_few(list(known), 20)}"
                )
            if images:
                found[name] = images
        if known is not None:
            if not found:
                self.refuse(f"{folder} has no images in class folders")
            missing = [name for name in known if name not in found]
            if missing and not of_run:
                self.notes.append(f"{folder} has no images of {_count(missing, 'class')}: {_few(missing)}")
        return found

    def images(self, folder: str, group: str) -> tuple[list[str], bool]:
        """Return the images at any depth below a class folder, sorted, and whether a run's folder was passed by."""
        found: list[str] = []
        entered: set[str] = set()
        way = [(folder, os.path.realpath(folder))]
        runs = False
        while way:
            path, real = way.pop()
            if real in entered:
                self.leave("folders that a class has twice, by links, taken once", path)
                continue
            entered.add(real)
            here = self.listings.pop(path, None) or self._list(path)
            if here.own:
                self.leave(OWN, path)
                runs = True
                continue
            for name in here.images:
                file = os.path.join(path, name)
                if self._take(file, os.path.realpath(file) if name in here.links else os.path.join(real, name), group):
                    found.append(file)
            self.others.update(os.path.splitext(name)[1].lower() or "no suffix" for name in here.others)
            for name in here.special:
                self.leave(SPECIAL, os.path.join(path, name))
            below = []
            for name in here.folders:
                inner = os.path.join(path, name)
                if name not in here.links:
                    below.append((inner, os.path.join(real, name)))
                elif self._above(target := os.path.realpath(inner), real):
                    self.leave("links to folders above left out", inner)
                else:
                    below.append((inner, target))
            way += reversed(below)
        return found, runs

    def _take(self, path: str, real: str, group: str) -> bool:
        if real not in self.seen:
            self.seen[real] = group, path
            return True
        other, first = self.seen[real]
        if other != group:
            self.refuse(f"{first} and {path} are one file, by a link, in two classes or splits; remove one of them")
        self.leave("images that a class has twice, by links, taken once", path)
        return False

    def why_no_classes(self, folder: str) -> str:
        """Return what there is in place of class folders."""
        count = len(self.look(folder).images)
        return f"; {count} images lie right in it: right is {LAYOUT}" if count else f"; right is {LAYOUT}"

    def said(self) -> tuple[str, ...]:
        """Return all notes."""
        lines = list(self.notes)
        for why, paths in self.left.items():
            lines.append(f"{why} ({len(paths)}): {_few(paths, EXTRA if why.startswith('extra') else SHOWN)}")
        if self.others:
            lines.append(f"{_count(self.others.elements(), 'file')} of other kinds left out: {_kinds(self.others)}")
        return tuple(lines)


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _all_in(names: Sequence[str], classes: Collection[str]) -> bool:
    return bool(names) and all(unicodedata.normalize("NFC", name) in classes for name in names)


def _letters(name: str) -> str:
    return re.sub(r"[\W\d_]+", "", name.casefold())


def _alike(name: str) -> str:
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", name).casefold())


def _few(names: Sequence[str], shown: int = SHOWN) -> str:
    more = f" and {len(names) - shown:,} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def _kinds(counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return _few([f"{name} {count:,}" for name, count in ordered], 8)


def _count(things: Iterable[object], noun: str) -> str:
    number = sum(1 for _ in things)
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"{number:,} {noun if number == 1 else plural}"
