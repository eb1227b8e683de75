"""Networks of other libraries by name; of timm, which need not be installed, with a stand-in where it is not needed."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
from torch import nn

from bayesprune import compact, convert
from bayesprune.cli.network import named_network, network_like
from bayesprune.conversion.zoos import converted, plain_network
from bayesprune.errors import ConfigError
from bayesprune.layers import gates_of
from tests.conversion.small import distance, switch_off


def _fixed(num_classes: int, in_chans: int, img_size: tuple[int, int]) -> nn.Module:
    if img_size[0] % 4:
        raise AssertionError("sides must be multiples of 4")
    mixed = nn.Sequential(nn.Flatten(), nn.Linear(in_chans * img_size[0] * img_size[1], 5), nn.ReLU())
    return nn.Sequential(mixed, nn.Linear(5, num_classes))


def _free(num_classes: int, in_chans: int = 3) -> nn.Module:
    maps = nn.Sequential(nn.Conv2d(in_chans, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(maps, nn.Linear(4, num_classes))


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """What of timm is used."""
    module, networks = ModuleType("timm"), {"fixed": _fixed, "free": _free}
    module.list_models = lambda: list(networks)  # type: ignore[attr-defined]
    module.create_model = lambda name, **options: networks[name](**options)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "timm", module)
    return module


@pytest.mark.parametrize("name, gate, shape", [("fixed", "0.1_gate", (1, 8, 4)), ("free", "0.0_gate", (2, 9, 9))])
def test_networks_of_timm_are_built_for_the_images(timm: ModuleType, name: str, gate: str, shape: tuple[int, ...]):
    net = named_network(f"timm:{name}", shape, 3)
    assert set(gates_of(net)) == {gate}
    assert net(torch.zeros(2, *shape)).shape == (2, 3)


def test_a_recipe_goes_by_the_network_as_its_library_makes_it(timm: ModuleType):
    assert isinstance(network_like("timm:free")[0][0], nn.Conv2d)


@pytest.mark.parametrize(
    "net, shape, says",
    [
        ("timm:frei", (3, 8, 8), "timm has no classification network 'frei'; the closest name is 'free'"),
        (
            "timm:fixed",
            (3, 9, 9),
            r"timm's fixed cannot be built for images of shape \(3, 9, 9\): sides must be",
        ),
        ("timm:free", (7,), r"timm's free takes images \(channels, height, width\), the examples have shape \(7,\)"),
        ("timm:free", (3, 2, 2), r"timm's free with images of shape \(3, 2, 2\): example_input .* does not go through"),
        ("torchvision:resnet18", (1, 8, 8), r"torchvision's resnet18 takes colour images \(3, height, width\)"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_line(timm: ModuleType, net: str, shape: tuple[int, ...], says: str):
    with pytest.raises(ConfigError, match=says) as raised:
        converted(net, shape, 3)
    assert "\n" not in str(raised.value)


def test_without_timm_it_is_asked_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r"needs timm, which is not installed: pip install 'bayesprune\[timm\]'"):
        plain_network("timm:resnet18", 3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    "name, branches, heads",
    [("test_vit", 12, True), ("test_efficientnet", 0, False), ("test_nfnet", 4, False), ("test_convnext", 9, False)],
)
def test_networks_of_timm_itself(name: str, branches: int, heads: bool):
    pytest.importorskip("timm", reason="timm is not installed: pip install 'bayesprune[timm]'")
    torch.manual_seed(0)
    model = plain_network(f"timm:{name}", 3, (1, 32, 32)).double().eval()
    for p in model.parameters():
        if not bool(p.any()):
            nn.init.uniform_(p, 0.5, 1.5)
    x = torch.rand(2, 1, 32, 32, dtype=torch.float64)
    net = convert(model, example_input=x)
    assert distance(net(x), model(x)) < 1e-12
    sizes = {gate_name: gate.size for gate_name, gate in gates_of(net).items()}
    assert list(sizes.values()).count(1) == branches
    assert heads == any("heads" in gate_name for gate_name in sizes)
    switch_off(net, share=0.3)
    small = compact(net, example_input=x)
    assert distance(small(x), net(x)) < 1e-9
