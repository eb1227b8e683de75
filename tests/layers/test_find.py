"""Gates bear the names of the modules that own them."""

from torch import nn

from bayesprune import layers
from bayesprune.layers import Gate, Residual, gates_of


def sizes(net: nn.Module) -> dict[str, int]:
    return {name: gate.size for name, gate in gates_of(net).items()}


def test_names_of_the_contract() -> None:
    net = nn.Sequential(
        nn.Flatten(),
        layers.Linear(784, 300, gate="unit"),
        nn.ReLU(),
        layers.Linear(300, 100, gate="unit"),
        nn.ReLU(),
        Residual(nn.Sequential(nn.Linear(100, 100), nn.ReLU())),
        nn.Linear(100, 10),
    )
    assert list(sizes(net).items()) == [("1", 300), ("3", 100), ("5", 1)]


def test_a_gate_alone_bears_its_own_name() -> None:
    assert sizes(nn.Sequential(nn.Linear(3, 4), Gate(4))) == {"1": 4}
    assert sizes(Gate(2)) == {"": 2}


def test_a_gate_called_gate_of_another_module_is_not_its_owners() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate = Gate(2)

    assert sizes(nn.Sequential(Own())) == {"0.gate": 2}


def test_nested_owners() -> None:
    block = Residual(nn.Sequential(layers.Linear(4, 6, gate="unit"), nn.ReLU(), nn.Linear(6, 4)))
    assert sizes(nn.Sequential(nn.Linear(4, 4), block)) == {"1": 1, "1.body.0": 6}


def test_layers_without_gate_and_networks_without_any() -> None:
    assert sizes(nn.Sequential(layers.Linear(3, 3), layers.Conv2d(1, 2, 3), nn.ReLU())) == {}


def test_a_module_used_twice_is_one_gate() -> None:
    layer = layers.Linear(3, 3, gate="unit")
    assert sizes(nn.Sequential(layer, nn.ReLU(), layer)) == {"0": 3}
