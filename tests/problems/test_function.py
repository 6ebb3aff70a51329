import torch
from torch import Tensor, nn

from neuroevo.problems import function
from neuroevo.problems.function import Evolvable

CPU = torch.device("cpu")


def test_a_function_cannot_change_the_genomes_that_it_is_given() -> None:
    def spoil(genomes: Tensor) -> Tensor:
        values = genomes.sum(1)
        genomes.zero_()
        return values

    genomes = torch.ones(3, 2)
    problem = function.of_genomes(spoil, torch.zeros(2))
    assert problem.validate(genomes)[0] == [{"fitness": 2.0}] * 3
    assert torch.equal(genomes, torch.ones(3, 2))


def test_genes_are_the_parameters_in_the_modules_order_and_the_start_is_the_module() -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1, bias=False))
    evolvable = Evolvable(module, ["1", "0.bias"], CPU)
    assert evolvable.layout.names == ("0.bias", "1.weight")
    assert torch.equal(evolvable.start[0], torch.cat([module[0].bias, module[1].weight.flatten()]))
    made = evolvable.of(torch.arange(4.0))
    assert torch.equal(made[0].bias, torch.tensor([0.0, 1.0]))
    assert torch.equal(made[1].weight, torch.tensor([[2.0, 3.0]]))
    assert torch.equal(made[0].weight, module[0].weight)
