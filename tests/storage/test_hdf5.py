import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from neuroevo.errors import InputError
from neuroevo.storage import hdf5

ARRAYS = {"a/large": np.arange(40_000, dtype=np.float32), "a/small": np.arange(3), "b": np.array(2.5)}


def write(path: Path) -> None:
    hdf5.write(path, b"mark\n", ARRAYS, {"c": "a/large"}, [hdf5.Notes("/", {"text": "x" * 100_000, "number": 3})])


@pytest.mark.parametrize("sizes", [(), (0,), (1,), (16_384, 2), (16_384, 3, 70_000), (200_000, 0, 16_385)])
def test_what_is_written_is_read_by_h5py_alone(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    arrays = {f"group/{i}": np.random.default_rng(i).random(size, dtype=np.float32) for i, size in enumerate(sizes)}
    hdf5.write(tmp_path / "f", b"mark\n", arrays, {}, [hdf5.Notes("/", {"x": "y"})])
    hdf5.verify(tmp_path / "f", b"mark\n", "x")
    with h5py.File(tmp_path / "f") as file:
        assert all(np.array_equal(file[key][()], array) for key, array in arrays.items())
        assert file.attrs["x"] == "y"


def test_a_full_disk_is_an_ordinary_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "f")


def huge(file: Any) -> None:
    file.create_dataset("a/huge", shape=(2**24, 2**24), dtype="f4", chunks=(1024, 1024))


def unallocated(file: Any) -> None:
    file.create_dataset("a/huge", shape=(2**30,), dtype="f4")


def external(file: Any) -> None:
    file.create_dataset("a/secret", shape=(10,), dtype="f4", external=[("/etc/passwd", 0, 40)])


def virtual(file: Any) -> None:
    layout = h5py.VirtualLayout(shape=(3,), dtype="f4")
    layout[:] = h5py.VirtualSource("/nowhere/x.h5", "y", shape=(3,))
    file.create_virtual_dataset("a/virtual", layout)


def link(file: Any) -> None:
    file["a/link"] = h5py.ExternalLink("/nowhere/x.h5", "/y")


def cycle(file: Any) -> None:
    file["a/cycle"] = file["a"]


def twice(file: Any) -> None:
    file["a/twice"] = file["a/large"]


def text(file: Any) -> None:
    file.create_dataset("a/text", data="text")


def compressed(file: Any) -> None:
    file.create_dataset("a/packed", data=np.zeros(10**6), compression="gzip")


def long(file: Any) -> None:
    file.attrs["long"] = np.zeros(1000)


def empty(file: Any) -> None:
    file.create_dataset("a/empty", data=h5py.Empty("f4"))


@pytest.mark.parametrize(
    "change", [huge, unallocated, external, virtual, link, cycle, twice, text, compressed, long, empty]
)
def test_a_file_that_is_more_than_its_own_numbers_is_refused_in_one_line(
    tmp_path: Path, change: Callable[[Any], None]
) -> None:
    write(tmp_path / "f.h5")
    with h5py.File(tmp_path / "f.h5", "r+") as file:
        change(file)
    with pytest.raises(InputError, match=r"f.h5: not as a checkpoint is \(.+\)$"), hdf5.open_file(tmp_path / "f.h5"):
        pass


def test_what_fails_while_it_is_read_is_one_line(tmp_path: Path) -> None:
    write(tmp_path / "f.h5")
    for read in (lambda f: f["nowhere"], lambda f: f["a"][()], lambda f: f.attrs["no"], lambda f: f["a/small"][7]):
        with (
            pytest.raises(InputError, match=r"f.h5: not as a checkpoint is"),
            hdf5.open_file(tmp_path / "f.h5") as file,
        ):
            read(file)
    (tmp_path / "g.h5").write_bytes((tmp_path / "f.h5").read_bytes()[:3000])
    with pytest.raises(InputError, match=r"g.h5: not as"), hdf5.open_file(tmp_path / "g.h5"):
        pass


def test_a_sparse_file_is_a_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sparse = hdf5.Sparse()
    with open(tmp_path / "f", "w+b") as plain:
        for _ in range(200):
            place, data = int(rng.integers(400_000)), rng.bytes(int(rng.integers(1, 100_000)))
            for file in (sparse, plain):
                file.seek(place)
                file.write(data)
        plain.seek(0)
        whole = plain.read()
    sparse.seek(0)
    assert sparse.read() == whole
    assert sparse.seek(0, os.SEEK_END) == len(whole)


def test_a_pipe_in_a_files_place_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "generation-000001.h5")
    with pytest.raises(InputError, match="not a regular file"), hdf5.open_file(tmp_path / "generation-000001.h5"):
        pass
