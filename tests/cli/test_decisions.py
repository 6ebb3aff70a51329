import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from neuroevo.cli import main


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["neuroevo", "decide", *words])
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(SystemExit) as left:
        main.main()
    return int(left.value.code or 0)


def test_decide_prints_a_table_of_80_columns_and_leaves_with_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    y = rng.choice(2, 200, p=[0.8, 0.2])
    logits = rng.normal(size=(200, 2)) + np.eye(2)[y] + np.log([0.8, 0.2])
    np.savez(tmp_path / "l.npz", logits=logits, y=y, split=np.repeat(["train", "test"], 100))
    monkeypatch.chdir(tmp_path)
    bound = ("--subject-to", "precision per class >= 0.2", "--subject-to", "recall of 1 >= 0.3")
    assert call(monkeypatch, "l.npz", "--metric", "macro_f1", *bound, "--folds", "3") == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == "l.npz: fitted to train"
    assert lines[1:4] == [
        "macro_f1 of 100 samples, 3 folds",
        "subject to precision of each class at least 0.2",
        "subject to recall (of 1) at least 0.3",
    ]
    assert [line.lstrip("> ").split()[0] for line in lines[5:9]] == ["argmax", "prior", "coordinate", "evolved"]
    assert lines[9].startswith("chosen: ")
    assert lines[-1].startswith("test  ")
    assert max(map(len, lines)) <= 80


def test_what_cannot_be_is_one_line_and_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "l.npz", "--metric", "macro_f1") == 2
    assert capfd.readouterr().err == "neuroevo: logits: l.npz is not there\n"


def test_help_loads_nothing_heavy() -> None:
    code = "import sys; sys.argv = ['neuroevo', 'decide', '--help']; from neuroevo.cli import main\ntry: main.main()\n"
    code += "except SystemExit: print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False False"
    assert "precision" not in done.stderr
