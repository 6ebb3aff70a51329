"""A walk below one folder: the names that a person sees in each folder, the files taken so far, and those left out.

Links are followed, but nothing is taken twice: not a folder above, not one file for two classes or splits.
"""

import errno
import os
import stat
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, NoReturn

from neuroevo.data.foldernames import is_hidden, is_image, is_junk
from neuroevo.errors import InputError

RUN = {"checkpoints", "history.jsonl", "run.log", "result.json", ".lock"}  # beside config.yaml: a run's folder
OWN = "folders of neuroevo's runs or cache, or of Python, left out"
SPECIAL = "left out, as no regular files (FIFOs, sockets, devices, links that lead nowhere)"
EXAMPLES, EXTRA = 3, 10  # examples in a note, and folders named that are left out beside splits


class Listing(NamedTuple):
    """The names that a person sees in a folder, sorted."""

    folders: list[str]
    images: list[str]  # regular files, or links that lead nowhere
    others: list[str]  # regular files of other kinds
    special: list[str]  # FIFOs, sockets, devices, links to folders that lead nowhere
    links: set[str]  # those among all of these that are links
    own: bool  # a folder of neuroevo's, or of a Python environment


class Walk:
    """A walk below one root, which remembers the files that it took and those that it left out."""

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
        """Return the listing of a folder; InputError where it can't be read."""
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
        return is_within(folder, target) or is_within(self.root, target)

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

    def all_notes(self) -> tuple[str, ...]:
        """Return all notes."""
        lines = list(self.notes)
        for why, paths in self.left.items():
            lines.append(f"{why} ({len(paths)}): {few(paths, EXTRA if why.startswith('extra') else EXAMPLES)}")
        if self.others:
            lines.append(
                f"{say_count(self.others.elements(), 'file')} of other kinds left out: {say_kinds(self.others)}"
            )
        return tuple(lines)


def is_within(path: str, folder: str) -> bool:
    """Tell whether a path is a folder's or below it, both real paths."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def few(names: Sequence[str], most: int = EXAMPLES) -> str:
    """Return the first of some names in words, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def say_kinds(counts: Mapping[str, int]) -> str:
    """Return counts by kind in words, the most frequent first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return few([f"{name} {count:,}" for name, count in ordered], 8)


def say_count(things: Iterable[object], noun: str) -> str:
    """Return how many things there are in words, with their noun."""
    number = sum(1 for _ in things)
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"{number:,} {noun if number == 1 else plural}"
