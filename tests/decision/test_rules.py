import torch

from neuroevo.decision.rules import Rule, predict


def some(n: int, samples: int, classes: int) -> tuple[Rule, torch.Tensor]:
    source = torch.Generator().manual_seed(0)
    offsets = torch.randn(n, classes, generator=source, dtype=torch.float64)
    scales = torch.randn(n, classes, generator=source, dtype=torch.float64).exp()
    return Rule(scales, offsets), torch.randn(samples, classes, generator=source, dtype=torch.float64)


def test_the_highest_of_scaled_and_shifted_logits_decides_for_many_rules_as_for_one() -> None:
    rules, logits = some(7, 50, 5)
    found = predict(rules, logits)
    assert torch.equal(found, rules.apply(logits).argmax(2))
    for i in range(7):
        assert torch.equal(predict(Rule(rules.scales[i], rules.offsets[i]), logits)[0], found[i])


def test_of_equal_logits_the_first_class_is_decided() -> None:
    assert predict(Rule.nothing(3), torch.tensor([[1.0, 2, 2], [0, 0, 0]])).tolist() == [[1, 0]]


def test_what_is_taken_out_of_a_rule_changes_no_decision() -> None:
    rules, logits = some(9, 400, 4)
    for scales, offsets in zip(rules.scales, rules.offsets, strict=True):
        rule = Rule(scales, offsets)
        plain = rule.plain(scale_counts=False)
        assert torch.equal(predict(plain, logits), predict(rule, logits))
        assert abs(float(plain.offsets.sum())) < 1e-12
        assert abs(float(plain.scales.log().sum())) < 1e-12
        assert torch.equal(rule.plain(scale_counts=True).scales, scales)
