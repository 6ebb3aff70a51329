"""Arms' names are folders' names: what is read back of a benchmark leads nowhere else."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from neuroevo.bench import arms, benchmark
from neuroevo.errors import InputError
from neuroevo.report import benchpage
from neuroevo.storage import rundir

BAD = ["../../escaped", "/tmp/x", "..", ".", "", " ", "a/b", "a\\b", "a\0b", "\x1b[2J", 3, None, "x" * 256, "\ud800"]
FILE = {
    "config": {"data": {"name": "digits"}, "memory": {"limit": 1}}, "samples": 1, "seeds": 1, "splits": 1,
    "levels": [], "jobs": 1, "command": "",
}  # fmt: skip


@pytest.mark.parametrize("name", BAD, ids=ascii)
def test_what_is_no_folders_name_is_refused(tmp_path: Path, name: Any) -> None:
    assert not rundir.is_arm(name)
    with pytest.raises(InputError, match="can't be an arm's name"):
        rundir.place_run(tmp_path, name, 0, 0)
    text = yaml.safe_dump(FILE | {"arms": {"ga": None, name: None}})
    (tmp_path / "bench.yaml").write_text(text, encoding="utf-8", errors="surrogatepass")
    for read in (benchmark.read_bench, benchpage.read_bench):
        with pytest.raises(InputError, match="bench.yaml"):
            read(tmp_path)


@pytest.mark.parametrize("name", ["ga", "my arm", "a.b", ".hidden", "é", "=x", "..."])
def test_any_other_name_is_one(tmp_path: Path, name: str) -> None:
    assert rundir.place_run(tmp_path, name, 0, 1) == tmp_path / "runs" / name / "0-1"
    (tmp_path / "bench.yaml").write_text(yaml.safe_dump(FILE | {"arms": {name: None}}))
    assert [*benchmark.read_bench(tmp_path).overlays] == benchpage.read_bench(tmp_path).arms == [name]


@pytest.mark.parametrize("name", ["a\\b.yaml", "\x1b.yaml"], ids=ascii)
def test_a_file_of_such_a_name_is_no_arm(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("algorithm: ga\n")
    with pytest.raises(InputError, match="--arms: .* can't be a folder's name"):
        arms.read_arms([str(tmp_path / name)])
