"""YAML that people write, and YAML that can't be: one line each, and never more than that."""

import os
import time
from pathlib import Path

import pytest

from neuroevo.config.yamlfile import dump, parse, read, show
from neuroevo.errors import InputError


def refused(text: str) -> str:
    began = time.monotonic()
    with pytest.raises(InputError) as caught:
        parse(text, "c.yaml")
    assert time.monotonic() - began < 2
    said = str(caught.value)
    assert said.startswith("c.yaml")
    assert len(said) < 300
    assert "\n" not in said
    return said


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001), ("1E8", 1e8), (".5", 0.5), ("-1.", -1.0), ("1_000", 1000), ("010", 10), ("0x1F", 31),
        (".inf", float("inf")), ("~", None), ("", None), ("true", True), ("yes", "yes"), ("off", "off"),
        ("1:30", "1:30"), ("2020-99-99", "2020-99-99"), ("2020-01-01", "2020-01-01"), ("'1e-3'", "1e-3"), ("1e", "1e"),
    ],
)  # fmt: skip
def test_scalars_are_what_people_mean(text: str, value: object) -> None:
    assert parse(f"a: {text}", "") == {"a": value}


def test_what_is_dumped_reads_back_as_it_was() -> None:
    words = ["1e-3", "yes", "1:30", "010", "0o7", "<<", "1_0", "~", "", "=", ".5", "2020-01-01", "null", "+.5e3", "0x1"]
    value = {"words": words, "numbers": [1e-5, 1e22, 3, -0.0, True, None]}
    assert parse(dump(value), "") == value


def test_a_key_that_is_given_twice_is_named_with_its_lines() -> None:
    assert refused("a: 1\nb: {c: 1,\n  c: 2}\n") == "c.yaml, line 3: 'c' is given twice, first in line 2"
    assert refused("a: 1\n'a': 2\n") == "c.yaml, line 2: 'a' is given twice, first in line 1"


def test_anchors_and_merge_keys_still_work() -> None:
    text = "one: &one {a: 1, b: 2}\ntwo: {<<: *one, b: 3}\nthree: *one\n"
    assert parse(text, "") == {"one": {"a": 1, "b": 2}, "two": {"a": 1, "b": 3}, "three": {"a": 1, "b": 2}}


def laughs(levels: int) -> str:
    lines = ["a0: &a0 [l, l, l, l, l, l, l, l, l, l]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: " + "9" * 5000, "a whole number of 5,000 digits"),
        ("seed: " + "[" * 3000 + "]" * 3000, "nested more than"),
        ("seed: " + "[" * 150 + "]" * 150, "nested more than"),
        ("seed: " + "[" * 100_000, "nested more than"),
        (laughs(9), "aliases that stand for more than"),
        ("a: &a [*a]", "an alias that holds itself"),
        ("a: !!timestamp 2020-99-99", "month must be in 1..12"),
        ("a: !!bool maybe", "not YAML"),
        ("a: !!python/object/apply:os.system [x]", "could not determine a constructor"),
        ("? [a]\n: 1", "a key is a word"),
        ("a:\n\t- 1", "line 2: not YAML"),
        ("a: \x00", "not YAML"),
        ("a: 1\n---\nb: 1", "not YAML"),
        ("a: *b", "undefined alias"),
    ],
    ids=lambda text: text[:20],
)
def test_what_is_no_yaml_is_one_short_line(text: str, message: str) -> None:
    assert message in refused(text)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe\x00", "not UTF-8"), ("seed: 1".encode("utf-16"), "not UTF-8"), (b"\x00\x01\x02", "not YAML"),
        (b"- 1\n", "a config is a mapping of sections, not [1]"), (b"0\n", "a config is a mapping"),
        (b"seed\n", "a config is a mapping"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_config_is_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read(str(file))
    assert message in str(caught.value)


def test_only_a_file_of_a_sane_size_is_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with open(tmp_path / "large", "wb") as file:
        file.truncate(2**40)
    for name, message in (("fifo", "device or pipe"), (".", "a folder"), ("nowhere", "No such file"),
                          ("large", "a config has"), ("a\0b", "can't be read")):  # fmt: skip
        with pytest.raises(InputError, match=message):
            read(str(tmp_path / name))


def test_a_byte_order_mark_and_an_empty_file_are_fine(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes("seed: 3\n".encode("utf-8-sig"))
    assert read(str(file)) == {"seed": 3}
    file.write_bytes(b"# nothing\n")
    assert read(str(file)) == {}


def test_a_value_is_shown_short() -> None:
    for value in (
        10**300,
        "x" * 9999,
        [[[1]] * 50] * 50,
        {str(i): i for i in range(99)},
        {"a": {"b": {"c": "x" * 999}}},
    ):
        assert len(show(value)) < 300
    assert show(2**64) == str(2**64)
    assert show("a\nb\x1b") == r"'a\nb\x1b'"


def test_a_folder_in_place_of_a_file_is_one_plain_line(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read(str(tmp_path))
    assert str(caught.value) == f"{tmp_path}: not a file, but a folder"


def test_yaml_of_more_characters_than_a_config_has_is_refused_before_it_is_looked_at() -> None:
    began = time.process_time()
    assert "1,048,577 characters; a config has 1,048,576 at most" in refused("a" * (2**20 + 1))
    assert time.process_time() - began < 1
