import pytest
import torch

from neuroevo.errors import InputError
from neuroevo.networks.classes import BELOW, match, reorder

THEN = ("ant", "bee", "cat")
X = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))


def weights(classes: int = 3) -> dict[str, torch.Tensor]:
    source = torch.Generator().manual_seed(1)
    return {"0.weight": torch.randn(4, 4), "fc.weight": torch.randn(classes, 5, generator=source) - 1,
            "fc.bias": torch.randn(classes, generator=source) - 3}  # fmt: skip


@pytest.mark.parametrize(
    ("now", "rows", "line"),
    [
        (THEN, (0, 1, 2), "3 kept"),
        (("cat", "ant", "bee"), (2, 0, 1), "3 kept (3 at another place)"),
        (("ant", "zebra", "bee"), (0, -1, 1), "2 kept (1 at another place), new: zebra, dropped: cat"),
        (("bee",), (1,), "1 kept (1 at another place), dropped: ant, cat"),
        ((*THEN, *"abcdefg"), (0, 1, 2, *[-1] * 7), "3 kept, new: a, b, c, d, e and 2 more"),
    ],
)
def test_classes_are_found_by_name_and_what_becomes_of_them_is_one_line(
    now: tuple[str, ...], rows: tuple[int, ...], line: str
) -> None:
    found = match(THEN, now, "x")
    assert (found.rows, str(found)) == (rows, line)


def test_no_class_in_common_and_names_of_several_are_refused_unless_all_is_as_it_was() -> None:
    with pytest.raises(InputError, match=r"^x: none of its classes \(ant, bee, cat\) is one of this run's \(dog\)"):
        match(THEN, ("dog",), "x")
    with pytest.raises(InputError, match="^x: classes go by their names, and ant is the name of several"):
        match(("ant", "ant"), ("ant", "bee"), "x")
    assert match(("ant", "ant"), ("ant", "ant"), "x").rows == (0, 1)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("now", [("dog", "cat", "ant", "elk"), ("dog", "bee"), ("bee", "dog", "ant", "cat")])
def test_known_rows_stay_and_a_new_class_is_never_predicted(now: tuple[str, ...], whole: bool) -> None:
    before = weights()
    after = reorder(before, "fc", match(THEN, now, "x"), whole)
    assert torch.equal(after["0.weight"], before["0.weight"])
    logits = X @ after["fc.weight"].T + after["fc.bias"]
    for place, name in enumerate(now):
        if name in THEN:
            for key in ("fc.weight", "fc.bias"):
                assert torch.equal(after[key][place], before[key][THEN.index(name)])
    known = [place for place, name in enumerate(now) if name in THEN]
    new = [place for place, name in enumerate(now) if name not in THEN]
    assert (logits[:, new].amax(1) < logits[:, known].amax(1)).all()
    if not whole:
        torch.testing.assert_close(logits[:, new[0]], logits[:, known].mean(1) - BELOW)
    else:  # a row that is there already
        assert any(torch.equal(after["fc.weight"][new[0]], after["fc.weight"][place]) for place in known)


def test_a_head_that_has_learnt_nothing_predicts_no_new_class_either() -> None:
    zero = {name: torch.zeros_like(value) for name, value in weights().items()}
    after = reorder(zero, "fc", match(THEN, ("aardvark", *THEN), "x"))
    assert (X @ after["fc.weight"].T + after["fc.bias"]).argmax(1).unique().tolist() == [1]
