"""Islands on the page of a run."""

import pytest

from neuroevo.report import archipelago


def line(generation: int, island: int, best: float | None) -> dict[str, object]:
    return {"generation": generation, "island": island, "fitness_best": best, "fitness_mean": -2.0, "diversity": 0.5,
            "invalid": 1}  # fmt: skip


LINES = [line(g, i, None if (g, i) == (1, 1) else -1.0 / (g + i)) for g in (1, 2) for i in range(3)]
GIVEN = {"count": 3, "every": 2, "migrants": 1, "topology": [[1, 2], [], [0]], "settings": []}


def test_a_picture_has_a_line_for_each_island_and_the_numbers_behind_them() -> None:
    best, apart = archipelago.plots(LINES)
    assert best.header == ["generation", "island", "fitness_best"]
    assert best.rows == [[x["generation"], x["island"], x["fitness_best"]] for x in LINES if x["fitness_best"]]
    assert len(apart.rows) == 6
    assert [text.get_text() for text in best.figure.legends[0].get_texts()] == [f"island {i}" for i in range(3)]
    assert archipelago.plots([]) == []


def test_the_table_says_from_whom_each_receives_what_it_has_of_its_own_and_whose_the_champion_is() -> None:
    own = {"algorithm.crossover": {"name": "uniform", "rate": 0.5}, "refine.lr": 0.1}
    config = {"islands": GIVEN | {"settings": [{}, own, {}]}}
    (shown,) = archipelago.table(LINES, config, "best of island 2")
    assert "2 (the champion&#x27;s)" in shown
    assert "algorithm.crossover uniform (rate 0.5000); refine.lr 0.1000" in shown
    assert "<td>1, 2</td>" in shown
    assert "After generation 2. 1 of each go every 2 generations." in shown
    assert "receives" in shown
    assert archipelago.table(LINES, {}, "best") == []
    (still,) = archipelago.table(LINES, {"islands": GIVEN | {"migrants": 0}}, "best")
    assert "Nobody goes." in still


@pytest.mark.parametrize("damage", [
    {"count": 10**8}, {"count": None}, {"count": 2}, {"settings": 3}, {"settings": [{}]}, {"settings": [3, 3, 3]},
    {"topology": "zzz"}, {"topology": 10**8}, {"topology": [[1]]}, {"topology": [1, 2, 3]}, {"migrants": "x"},
    {"every": []},
])  # fmt: skip
def test_islands_of_a_config_that_has_others_have_no_table(damage: dict[str, object]) -> None:
    (shown,) = archipelago.table(LINES, {"islands": GIVEN | damage}, "best")
    assert "<table" not in shown
    assert "the config has other islands" in shown
    assert archipelago.table(LINES, {"islands": {}}, "best") == [shown]
