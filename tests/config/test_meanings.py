"""What options mean: each option of each part has its line, and no line is of an option that there isn't."""

from neuroevo import config
from neuroevo.config.meanings import MEANINGS, SWARM, meaning_of

EVERY = [
    (kind, name, option.name)
    for kind, table in config.TABLES.items()
    for name in table
    for option in config.options(kind, name)
]


def test_each_option_of_each_part_has_a_meaning() -> None:
    assert [".".join(path) for path in EVERY if not meaning_of(*path)] == []
    assert all(about.endswith(".") and len(about) < 110 for about in MEANINGS.values())


def test_each_meaning_is_of_an_option_that_there_is() -> None:
    used = {f"{kind}.{name}.{option}" for kind, name, option in EVERY} & MEANINGS.keys()
    used |= {f"{kind}.{option}" for kind, name, option in EVERY if f"{kind}.{name}.{option}" not in MEANINGS}
    assert MEANINGS.keys() - used == set()


def test_what_is_another_thing_in_one_part_is_told_there() -> None:
    assert "root" not in MEANINGS["data.image_folder.root"] and "class folders" in meaning_of(
        "data", "image_folder", "root"
    )
    assert meaning_of("data", "mnist", "root") == MEANINGS["data.root"]
    assert "side" in meaning_of("sampler", "pso", "social") and "gene" in SWARM["social"]
    assert meaning_of("algorithm", "ga", "nothing") == ""
