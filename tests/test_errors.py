import os
import pickle

import pytest

from neuroevo.errors import InputError, printable, setting, the


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("café 中 \u0628 a\u200db", "café 中 \u0628 a\u200db"),
        ("a\x1b]0;x\x07", r"a\x1b]0;x\x07"),
        ("a\r\n\tb\x7f\x9b", r"a\r\n\tb\x7f\x9b"),
        (os.fsdecode(b"caf\xe9"), r"caf\xe9"),
        ("\ud800\u202e\u2028", r"\ud800\u202e\u2028"),
    ],
)
def test_what_a_terminal_would_obey_or_cannot_show_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
    printable(text).encode()


def test_an_error_carries_its_option_and_is_a_value_error() -> None:
    error = InputError("goes with neither relative, rank nor a rate below 1", option="safe")
    assert isinstance(error, ValueError)
    assert error.option == "safe"
    assert str(error) == error.args[0] == "safe: goes with neither relative, rank nor a rate below 1"
    assert str(InputError("x.png: broken")) == "x.png: broken"


def test_options_are_renamed_once_and_by_whom_knows_them() -> None:
    error = InputError(f"3 given; give {the('rank')} too, or set {setting('per', 'tensor')}", option="safe")
    assert str(error) == "safe: 3 given; give rank too, or set per=tensor"
    error.rename({"rank": "mutation.rank"}.get)
    assert str(error) == "safe: 3 given; give mutation.rank too, or set per=tensor"
    error.rename(lambda option: f"m.{option}")
    assert str(error) == "m.safe: 3 given; give mutation.rank too, or set --set m.per=tensor"
    error.rename(lambda option: "again")
    assert str(error) == "m.safe: 3 given; give mutation.rank too, or set --set m.per=tensor"
    assert error.option == "safe"


def test_an_error_within_another_line_is_still_renamed_and_goes_between_processes() -> None:
    error = pickle.loads(pickle.dumps(InputError("5 given", option="channels").within("x.npy")))
    assert (str(error), error.option) == ("x.npy: channels: 5 given", "channels")
    error.rename(lambda option: f"backbone.{option}")
    assert str(error) == "x.npy: backbone.channels: 5 given"
