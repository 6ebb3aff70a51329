import re
import sys
from pathlib import Path

import pytest
import yaml

from neuroevo import config
from neuroevo.cli import listing
from neuroevo.config import load
from neuroevo.config.schema import SECTIONS
from neuroevo.errors import InputError

RUNS = sorted((Path(__file__).parents[2] / "runs").glob("*.yaml"))


def rows(key: str) -> dict[str, str]:
    return {name: text for _, table in listing.describe(key) for name, text in table}


def test_a_section_is_listed_with_type_default_and_meaning_of_each_key() -> None:
    (title, table), *others = listing.describe("validate")
    assert not others
    assert title.startswith("validate: By what and how often candidates are validated")
    assert dict(table)["every"] == "Generations from one validation to the next. (whole number >= 1; default 10)"
    assert "required" in rows("islands")["count"]
    assert "(number in (0, 1); default 0.15)" in rows("data")["validation"]
    assert rows("backbone.quantise")["bits"].endswith("(8 | 6 | 4 | 3; default 8)")
    assert "seed" in rows("top")


def test_a_section_that_is_a_part_as_well_has_its_keys_and_the_names() -> None:
    assert [title.partition(":")[0] for title, _ in listing.describe("head")] == ["head", "names of head"]
    assert {"init", "trainable", "linear", "mlp"} <= set(rows("head"))


def test_a_key_and_a_part_are_listed_alone() -> None:
    assert listing.describe("refine.lr")[0][1][0][1].endswith("(number > 0, or list of number > 0; default 0.01)")
    assert rows("algorithm.ga")["population"] == "Individuals of a generation. (whole number >= 2; default 256)"
    assert rows("sampler.optuna/tpe")["population"].endswith("default 1)")


def test_what_is_unknown_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"list: nothing is called validat \(did you mean validate\?\)"):
        listing.describe("validat")
    with pytest.raises(InputError, match=r"did you mean refine\.lr"):
        listing.describe("refine.lrr")


def test_every_key_that_a_config_records_is_listed_and_has_a_meaning() -> None:
    found = {f"{name}.{key.name}".lstrip("."): key.meaning for name in config.sections() for key in config.keys(name)}
    assert not [key for key, meaning in found.items() if not meaning.endswith(".")]
    whole = load(str(RUNS[0].with_name("tune_full.yaml"))).record() | load(None, ["refine.steps=1"]).record()
    whole["tune"] = load(str(RUNS[0].with_name("tune_full.yaml"))).record()["tune"]
    for name, value in whole.items():
        if name == "algorithm":
            continue
        keys = value if isinstance(value, dict) else {}
        options = {option.name for option in config.options(name, keys.get("name", ""))} if "name" in keys else set()
        lacking = {f"{name}.{key}" for key in set(keys) - options} - found.keys() - {"tune.given"}
        assert not lacking
        assert keys or name in found or name in SECTIONS


def test_all_there_is_is_listed_by_default() -> None:
    titles = [title for title, _ in listing.describe(None)]
    assert titles == ["section", *config.TABLES, "arm", "recipe"]


def test_lines_fit_into_a_terminal_and_are_whole_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    (title, table), *_ = listing.describe("refine")
    whole = listing.lines(title, table)
    assert len(whole) == 1 + len(table)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    wrapped = listing.lines(title, table)
    assert max(map(len, wrapped)) <= 60
    assert " ".join(" ".join(wrapped).split()) == " ".join(" ".join(whole).split())


@pytest.mark.parametrize("name", config.recipes())
def test_a_recipe_is_written_with_comments_and_says_the_same(name: str) -> None:
    text = listing.begin(name, None)
    assert config.parse(text, name) == yaml.safe_load(config.FOLDER.joinpath(f"{name}.yaml").read_text())
    assert max(map(len, text.split("\n"))) <= 120
    lines = text.split("\n")
    sections = [i for i, line in enumerate(lines) if re.match(r"\w+:", line)]
    assert len(sections) == len(config.recipe(name))
    assert all(lines[i - 1].startswith("# ") for i in sections)
    assert ("# Generations at most." in text) == ("generations" in config.recipe(name).get("budget", {}))


def test_the_default_recipe_is_the_built_in_experiment() -> None:
    assert config.recipe("default") == config.DEFAULT
    assert next(iter(config.recipes())) == "default"


def test_a_recipe_is_written_to_a_new_file_only(tmp_path: Path) -> None:
    out = tmp_path / "c.yaml"
    assert listing.begin("own_features", str(out)) == f"{out}\n"
    assert out.read_text() == listing.begin("own_features", None)
    out.write_text("mine")
    with pytest.raises(InputError, match="is there; give another name"):
        listing.begin("own_features", str(out))
    assert out.read_text() == "mine"
    with pytest.raises(InputError, match="no folder"):
        listing.begin("own_features", str(tmp_path / "no" / "c.yaml"))
    with pytest.raises(InputError, match=r"no recipe is called own_image \(did you mean own_images\?\)"):
        listing.begin("own_image", str(tmp_path / "d.yaml"))
    assert [*tmp_path.iterdir()] == [out]
