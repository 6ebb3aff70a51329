"""Cut the power of a run at many moments, on paper, and see that it goes on to the same bytes from what the disk had.

    python tests/crash/power.py [COUNT] [SEED] [--only NAME,...]      (300 and 0)

A command is recorded: what it writes, flushes, renames, makes and removes, in order (shim.c). All of it, done again in
an empty folder, must give the command's files: so nothing was missed. Then, COUNT times, the power is cut after one of
the calls, and a state is made that a disk may be in:

- Of the data of a file, what was flushed is there. What was written since is there, missing, or zeros, page by page,
  and its size is that of any moment since.
- Of the entries of a folder, those up to its last flush are there, and of the calls since then as many as one likes, in
  their order, in each folder for itself (`loose`), or in all folders together (`ordered`, as a journal has it). A new
  folder is there if its entry is.

`resume` (or the same command, where nothing is left) must then end in the same bytes, and begin no earlier than the
newest checkpoint that was whole on disk. Exit status 1 where not.
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

import shim
from shim import Call, Kind

PAGE = 4096
NAMES = {Kind.RENAME, Kind.UNLINK, Kind.MAKE}  # what changes a folder's entries, beside the making of a file
COMMANDS = ("run", "features", "tune", "islands", "API", "resume")


class File:
    """A file's content as it was flushed, and what has been done to it since."""

    def __init__(self) -> None:
        self.flushed = bytearray()
        self.since: list[tuple[int, bytes | None]] = []  # where, and what; None: it is cut there

    def flush(self) -> None:
        """All that was written is on disk."""
        self.flushed, self.since = self.whole(), []

    def whole(self) -> bytearray:
        """Return its content with all that was written."""
        return self.apply(len(self.since))

    def apply(self, count: int) -> bytearray:
        """Return its content with the first of what was written since its flush."""
        found = bytearray(self.flushed)
        for place, data in self.since[:count]:
            if data is None:
                found = found[:place].ljust(place, b"\0")
            else:
                found = found.ljust(place, b"\0")
                found[place : place + len(data)] = data
        return found

    def lose(self, source: random.Random) -> bytes:
        """Return what a disk may have of it."""
        how = source.choice(("all", "none", "zeros", "pages", "first"))
        if how == "all" or not self.since:
            return bytes(self.whole())
        if how == "none":
            return bytes(self.flushed)
        if how == "first":
            return bytes(self.apply(source.randrange(len(self.since) + 1)))
        old, new = self.flushed, self.apply(source.randint(1, len(self.since)))
        found = bytearray()
        for place in range(0, len(new), PAGE):
            page = new[place : place + PAGE]
            before = bytes(old[place : place + PAGE]).ljust(len(page), b"\0")[: len(page)]
            fresh = how == "pages" and source.random() < 0.5
            found += page if fresh or bytes(page) == before else before
        return bytes(found)


class Entry(NamedTuple):
    """A change of a folder's entries."""

    number: int  # of the call
    folders: tuple[str, ...]  # whose entries it changes
    call: Call
    inode: int  # of the file that is made


def parent(path: str) -> str:
    """Return the folder of a path."""
    return path.rpartition("/")[0]


class Disk:
    """What a recorded command had done to its files and folders after so many calls."""

    def __init__(self, calls: Iterable[Call], before: Callable[[str], bytes]) -> None:
        self.before = before  # the content of a file that was there before the command, by its path
        self.files: dict[int, File] = {}
        self.there: dict[int, str] = {}  # those that were there before, and are written to in place
        self.entries: list[Entry] = []
        self.flushed: dict[str, int] = {}  # a folder's last flush: the number of that call
        made: dict[int, int] = {}  # by inode: the file that has the number now, as it is used again
        for number, call in enumerate(calls):
            if call.kind is Kind.OPEN and not call.there:
                made[call.inode] = number
                self.files[number] = File()
                self.entries.append(Entry(number, (parent(call.path),), call, number))
            elif call.kind is Kind.OPEN:
                self._of(made, call).since.append((0, None))
            elif call.kind is Kind.WRITE:
                self._of(made, call).since.append((call.offset, call.data))
            elif call.kind is Kind.TRUNCATE:
                self._of(made, call).since.append((call.size, None))
            elif call.kind is Kind.SYNC and call.inode in made:
                self.files[made[call.inode]].flush()
            elif call.kind is Kind.SYNC:
                self.flushed[call.path] = number
            elif call.kind is Kind.MAKE:
                made.pop(call.inode, None)
                self.entries.append(Entry(number, (parent(call.path),), call, -1))
            elif call.kind is Kind.UNLINK:
                self.entries.append(Entry(number, (parent(call.path),), call, -1))
            elif call.kind is Kind.RENAME:
                folders = tuple(dict.fromkeys((parent(call.other), parent(call.path))))
                self.entries.append(Entry(number, folders, call, -1))

    def _of(self, made: dict[int, int], call: Call) -> File:
        if call.inode not in made:
            number = made[call.inode] = -1 - len(self.there)
            self.files[number], self.there[number] = File(), call.path
            self.files[number].flushed = bytearray(self.before(call.path))
        return self.files[made[call.inode]]

    def stays(self, entry: Entry) -> bool:
        """Tell whether a change of entries was flushed, in one of the folders that it concerns."""
        return any(self.flushed.get(folder, -1) > entry.number for folder in entry.folders)

    def keep(self, source: random.Random, loose: bool) -> list[Entry]:
        """Return the changes of entries that a disk may have."""
        if not loose:
            least = max((i + 1 for i, entry in enumerate(self.entries) if self.stays(entry)), default=0)
            return self.entries[: source.randint(least, len(self.entries))]
        of_folder: dict[str, list[Entry]] = defaultdict(list)
        for entry in self.entries:
            of_folder[entry.folders[0]].append(entry)
        kept: list[Entry] = []
        for entries in of_folder.values():
            least = max((i + 1 for i, entry in enumerate(entries) if self.stays(entry)), default=0)
            kept += entries[: source.randint(least, len(entries))]
        return sorted(kept, key=lambda entry: entry.number)


def build(disk: Disk, kept: list[Entry], content: dict[int, bytes]) -> None:
    """Make the files and folders that changes of entries lead to; what lies in a folder that isn't there is lost."""
    for number, path in disk.there.items():
        Path(path).write_bytes(content[number])
    for _, _, call, inode in kept:
        place, other = Path(call.path), Path(call.other)
        if call.kind is Kind.OPEN and place.parent.is_dir():
            place.write_bytes(content[inode])
        elif call.kind is Kind.MAKE and place.parent.is_dir():
            place.mkdir(exist_ok=True)
        elif call.kind is Kind.UNLINK and place.is_dir():
            shutil.rmtree(place)
        elif call.kind is Kind.UNLINK:
            place.unlink(missing_ok=True)
        elif call.kind is Kind.RENAME and place.exists() and other.parent.is_dir():
            place.rename(other)


def contents_before(folder: Path, source: Path) -> Callable[[str], bytes]:
    """Return what gives the content that a file of a command's folder began with."""
    return lambda path: (source / Path(path).relative_to(folder)).read_bytes()


def newest(folder: Path) -> int:
    """Return the generation of the newest good checkpoint in r, or of its search; -1 where there is none."""
    from neuroevo.storage import rundir

    found = [rundir.newest(place) for place in (folder / "r", folder / "r" / rundir.TUNE)]
    return max([-1, *(saved.step.generation for saved in found if saved is not None)])


def durable(calls: list[Call]) -> int:
    """Return the newest generation whose checkpoint must be on disk: it was renamed, and its folder flushed."""
    from neuroevo.storage import generations

    found, waiting = -1, []
    for call in calls:
        if call.kind is Kind.RENAME and parent(call.other).endswith("/r/checkpoints"):
            count = generations.number(Path(call.other))
            waiting += [] if count is None else [count]
        elif call.kind is Kind.SYNC and call.path.endswith("/r/checkpoints"):
            found, waiting = max([found, *waiting]), []
    return found


class Recording(NamedTuple):
    """A command that was recorded."""

    victim: "victims.Victim"
    source: Path  # what it began from
    folder: Path  # where it ran, and is gone on with: there are paths in what it writes
    calls: list[Call]
    right: dict[str, object]


def record(name: str, root: Path) -> Recording:
    """Record a command, and see that all that it did is in the record."""
    victim = victims.VICTIMS[name]
    source = victims.prepare(victim, root / f"{name}, prepared")
    folder, file = victims.copy(source, root / f"{name}, at"), root / f"{name}.calls"
    status, text = victims.Running(victim.command, folder, partial(shim.record, str(folder), file)).wait()
    assert status == 0, text
    calls, right = list(shim.read(file)), victims.contents(folder)
    shutil.rmtree(folder)
    victims.copy(source, folder)
    disk = Disk(calls, contents_before(folder, source))
    build(disk, disk.entries, {number: bytes(each.whole()) for number, each in disk.files.items()})
    differ = victims.differences(right, victims.contents(folder))
    shutil.rmtree(folder)
    if differ:
        raise SystemExit(f"{name}: the record isn't whole: {differ[:5]}")
    counts = Counter(call.kind.name.lower() for call in calls)
    print(f"{name}, recorded: {', '.join(f'{count} {kind}' for kind, count in counts.items())}", flush=True)
    return Recording(victim, source, folder, calls, right)


def cut(recording: Recording, source: random.Random) -> tuple[str, list[str]]:
    """Cut the power, and go on; return when it was cut, and what is wrong."""
    from faults import compare
    from kills import go_on

    folder = victims.copy(recording.source, recording.folder)
    count = source.randint(1, len(recording.calls))
    loose = source.random() < 0.5
    disk = Disk(recording.calls[:count], contents_before(folder, recording.source))
    content = {number: file.lose(source) for number, file in disk.files.items()}
    build(disk, disk.keep(source, loose), content)
    before, least, wrong = newest(folder), durable(recording.calls[:count]), []
    if before < least:
        wrong.append(f"the newest good checkpoint is {before}, though {least} was flushed")
    said = f"cut after {count} of {len(recording.calls)} calls, {'loose' if loose else 'ordered'}, checkpoint {before}"
    status, text = go_on(recording.victim, folder).wait()
    if status or victims.traceback_in(text):
        return said, [*wrong, f"going on left with status {status}: {text[-600:]}"]
    return said, wrong + compare(recording.right, victims.contents(folder))


def main() -> int:
    """Cut the power, and say what came of it."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("count", nargs="?", type=int, default=300)
    made.add_argument("seed", nargs="?", type=int, default=0)
    made.add_argument("--only", help="names of victims", default=",".join(COMMANDS))
    options = made.parse_args()
    names = options.only.split(",")
    source, bad = random.Random(options.seed), 0
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        recordings = {name: record(name, root) for name in names[: options.count]}
        for i in range(options.count):
            name = names[i % len(names)]
            said, wrong = cut(recordings[name], source)
            bad += bool(wrong)
            print(f"{i:3} {name}, {said}: {'; '.join(wrong) or 'the same bytes'}", flush=True)
            shutil.rmtree(recordings[name].folder)
    print(f"{options.count} cuts of the power, {bad} wrong")
    return bool(bad)


os.environ.setdefault("OMP_NUM_THREADS", "1")
if __name__ == "__main__":
    shim.reload()

import victims  # noqa: E402  which imports everything: once, after the library is loaded

if __name__ == "__main__":
    sys.exit(main())
