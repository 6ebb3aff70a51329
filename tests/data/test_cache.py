import errno
import io
import itertools
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuroevo.data import cache
from neuroevo.errors import InputError, RunError

NAME = "0" * 64 + ".npy"
ROWS = np.random.default_rng(0).normal(size=(150, 7)).astype(np.float32)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NEUROEVO_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache" / "features").mkdir(parents=True)
    return tmp_path / "cache" / "features"


def grow(path: Path, until: int = 150, rows: np.ndarray = ROWS) -> int:
    """Write rows as far as `until`, in one life; return how many were there."""
    with cache.Growing(path, 150, "float32") as file:
        begun = file.done
        for start in range(begun, until, 64):
            file.append(rows[start : min(start + 64, until)])
        if until == 150:
            file.finish()
    return begun


def take(path: Path) -> None:
    with cache.lock(path, "features"):
        pass


def flip(path: Path, source: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[source.randrange(len(content))] ^= 1 << source.randrange(8)
    path.write_bytes(content)


DAMAGES = {
    "flip": flip,
    "truncate": lambda path, source: os.truncate(path, source.randrange(path.stat().st_size)),
    "empty": lambda path, source: os.truncate(path, 0),
    "zeros": lambda path, source: path.write_bytes(bytes(path.stat().st_size)),
    "append": lambda path, source: path.write_bytes(path.read_bytes() + source.randbytes(9)),
    "garbage": lambda path, source: path.write_bytes(source.randbytes(path.stat().st_size)),
    "folder": lambda path, source: (path.unlink(), path.mkdir()),
    "pipe": lambda path, source: (path.unlink(), os.mkfifo(path)),
    "link": lambda path, source: (path.unlink(), path.symlink_to("nowhere")),
    "other": lambda path, source: path.write_bytes((path.parent / "other.npy").read_bytes()),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_is_what_was_written_or_it_is_not_sound(folder: Path, damage: str) -> None:
    path, content, source = folder / "file.npy", bytes(range(256)) * 5, random.Random(0)
    cache.write(folder / "other.npy", b"other", "files")
    assert not cache.sound(path)
    assert cache.read(path) is None
    for _ in range(8):
        cache.write(path, content, "files")
        assert cache.sound(path)
        assert cache.read(path) == content
        DAMAGES[damage](path, source)
        assert not cache.sound(path)
        assert cache.read(path) is None
        assert cache.clear(path)
    assert sorted(p.name for p in folder.iterdir()) == ["other.npy"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_note_is_no_note(folder: Path, damage: str) -> None:
    source = random.Random(0)
    at = folder.parent / "files" / "key.json"
    cache.keep_note("other", 5)
    shutil.copy(at.with_name("other.json"), at.with_name("other.npy"))
    for found in ("text", [1, 22, 333]):
        cache.keep_note("key", found)
        assert cache.note("key") == found
        DAMAGES[damage](at, source)
        assert cache.note("key") is None


def test_those_that_ask_at_once_get_one_answer() -> None:
    count = itertools.count()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: cache.remember("key", lambda: next(count)), range(8)))
    assert found == [0] * 8


def test_a_memory_that_cannot_be_written_is_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "file").touch()
    monkeypatch.setenv("NEUROEVO_CACHE", str(folder / "file"))
    count = itertools.count()
    assert [cache.remember("key", lambda: next(count)) for _ in range(2)] == [0, 1]


def test_a_file_of_rows_is_that_of_numpy_however_many_lives_it_took(folder: Path) -> None:
    whole, parts = folder / NAME, folder / "parts" / NAME
    parts.parent.mkdir()
    assert grow(whole) == 0
    assert [grow(parts, until) for until in (64, 128, 128, 150)] == [0, 64, 128, 128]
    np.testing.assert_array_equal(np.load(whole), ROWS)
    np.testing.assert_array_equal(np.load(whole, mmap_mode="r"), ROWS)
    assert whole.read_bytes() == parts.read_bytes()
    assert cache.sound(parts)
    assert sorted(p.name for p in folder.iterdir()) == [NAME, "parts"]
    assert [p.name for p in parts.parent.iterdir()] == [NAME]


@pytest.mark.parametrize("damage", [d for d in DAMAGES if d != "other"])
@pytest.mark.parametrize("suffix", [cache.PARTIAL, cache.JOURNAL])
def test_rows_begun_before_are_kept_only_as_far_as_they_are_sound(folder: Path, damage: str, suffix: str) -> None:
    path, source, kept = folder / NAME, random.Random(1), set()
    for _ in range(5):
        grow(path, 128)
        DAMAGES[damage](path.with_name(NAME + suffix), source)
        kept.add(grow(path))
        np.testing.assert_array_equal(np.load(path), ROWS)
        assert cache.sound(path)
        path.unlink()
    assert kept <= {0, 64, 128}
    assert kept != {128} or damage == "append"


def test_parts_of_another_file_are_not_gone_on_with(folder: Path) -> None:
    other = folder / ("1" * 64 + ".npy")
    grow(other, 128, -ROWS)
    for suffix in (cache.PARTIAL, cache.JOURNAL):
        other.with_name(other.name + suffix).rename(folder / (NAME + suffix))
    assert grow(folder / NAME) == 0
    np.testing.assert_array_equal(np.load(folder / NAME), ROWS)


def test_rows_that_a_killed_process_wrote_are_there(folder: Path) -> None:
    code = f"""if True:
        import os, signal, sys
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import test_cache
        with test_cache.cache.Growing(Path({str(folder / NAME)!r}), 150, "float32") as file:
            file.append(test_cache.ROWS[:64])
            file.append(test_cache.ROWS[64:128])
            os.kill(os.getpid(), signal.SIGKILL)
    """
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert grow(folder / NAME) == 128
    np.testing.assert_array_equal(np.load(folder / NAME), ROWS)


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("begun", [0, 64])
def test_a_disk_that_is_known_to_be_too_small_is_not_begun_to_fill(
    folder: Path, begun: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if begun:
        grow(folder / NAME, begun)
    real = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda at: real(at)._replace(free=1000))
    with pytest.raises(
        RunError, match=rf"{folder.parent}: no space left for 0.0 MiB of features; free some, or set NE"
    ):
        grow(folder / NAME)
    monkeypatch.undo()
    monkeypatch.setenv("NEUROEVO_CACHE", str(folder.parent))
    assert bool(list(folder.iterdir())) == bool(begun)  # what is there took long
    assert grow(folder / NAME) == begun


def test_a_disk_that_fills_up_is_one_line_and_nothing_stays_on_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []

    class Filling(io.FileIO):
        def write(self, content: Any) -> int:
            if len(written) == 4:
                full()
            written.append(super().write(content))
            return written[-1]

    monkeypatch.setattr(io, "FileIO", Filling)
    with pytest.raises(RunError, match="no space left for 0.0 MiB of features"):
        grow(folder / NAME)
    assert not list(folder.iterdir())
    monkeypatch.undo()
    monkeypatch.setenv("NEUROEVO_CACHE", str(folder.parent))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="no space left for components"):
        cache.write(folder / "file.npz", b"content", "components")
    cache.keep_note("key", 1)
    assert cache.note("key") is None
    assert not [path for path in folder.parent.rglob("*") if path.is_file() and path.suffix != cache.LOCK]


def test_a_real_disk_that_is_full_is_one_line(folder: Path) -> None:
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "small", folder]).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        with pytest.raises(RunError, match="no space left for"), cache.lock(folder / NAME, "components"):
            cache.write(folder / "file.npz", bytes(20000), "components")
        assert [path.suffix for path in folder.iterdir()] == [cache.LOCK]
        subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        with pytest.raises(InputError, match="Read-only file system; mend that, or set NEUROEVO_CACHE"):
            take(folder / ("2" * 64 + ".npy"))
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_cache_folder_of_no_use_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "file").write_text("")
    for place in (folder / "file", folder / "file" / "below", folder / ("n" * 300)):
        monkeypatch.setenv("NEUROEVO_CACHE", str(place))
        at = cache.cache_folder() / "features" / NAME
        assert not cache.sound(at)
        with pytest.raises(InputError, match=f"cache folder {place}: features: .*; mend that, or set NEUROEVO_CACHE"):
            take(at)
        cache.tidy(at)
        cache.keep_note("key", 1)
        assert cache.note("key") is None


def test_a_lock_that_can_not_be_had_and_a_place_that_is_taken_are_one_line(folder: Path) -> None:
    (folder / ("0" * 64 + cache.LOCK)).mkdir()
    with pytest.raises(InputError, match=r"cache folder .*: features: .*\.lock: Is a directory"):
        take(folder / NAME)
    (folder / "file.npz" / "in it").mkdir(parents=True)
    with pytest.raises(InputError, match=r"components: .*file.npz: Directory not empty"):
        cache.write(folder / "file.npz", b"content", "components")
    assert not list(folder.glob("*.partial"))


def test_a_file_that_may_not_be_read_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.write(folder / NAME, b"content", "features")

    def denied(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(io, "FileIO", denied)
    for look in (cache.sound, cache.read):
        with pytest.raises(InputError, match=f"{NAME}: can't be read .Permission denied.; mend that, or set NEUROEVO"):
            look(folder / NAME)


def test_who_waits_for_a_lock_is_asked_now_and_then_and_may_leave(folder: Path) -> None:
    def leave() -> None:
        raise InterruptedError

    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with cache.lock(folder / NAME, "features"):
            held.set()
            done.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    with pytest.raises(InterruptedError), cache.lock(folder / NAME, "features", leave):
        pass
    done.set()
    thread.join()


def test_what_dead_owners_left_is_removed_and_what_somebody_may_go_on_with_stays(folder: Path) -> None:
    old = time.time() - cache.KEPT - 60
    a, b, c, d, e = (letter * 64 for letter in "abcde")
    for name in (a, b, c, d, e):
        grow(folder / f"{name}.npy", 64)
    for name in (b, c):  # nobody came back to b; c is about to be used
        for suffix in (cache.PARTIAL, cache.JOURNAL):
            os.utime(folder / f"{name}.npy{suffix}", (old, old))
    cache.write(folder / f"{d}.npy", b"made by another", "features")
    (folder / f"{a}.4194305.partial").write_text("of a version before")
    (folder / f"{e}.npz.partial").write_text("")
    for theirs in ("mine.partial", "notes.txt", f"{a}.npy.txt"):
        (folder / theirs).write_text("a user's")
    with cache.lock(folder / f"{e}.npy", "features"):  # at work
        os.utime(folder / f"{e}.npy.partial", (old, old))
        cache.tidy(folder / f"{c}.npy")
        left = sorted(path.name for path in folder.iterdir() if path.suffix != cache.LOCK)
    expected = [f"{name}.npy{suffix}" for name in (a, c, e) for suffix in (cache.JOURNAL, cache.PARTIAL)]
    expected += [f"{d}.npy", f"{e}.npz.partial", "mine.partial", "notes.txt", f"{a}.npy.txt"]
    assert left == sorted(expected)
    cache.tidy(folder / f"{c}.npy")
    assert not list(folder.glob(f"{e}.npz*"))
