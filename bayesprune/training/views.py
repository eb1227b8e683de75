"""What a method lets a network compute with in place of its weights and outputs, while it is trained."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from bayesprune.layers import gates_of, holders_of
from bayesprune.methods.protocol import Method, Needs, Run, Site


def sites_of(net: nn.Module) -> list[Site]:
    """Where a method may act: weights of at least two dimensions, called ``weight``, and what gates multiply.

    A weight that layers share is one place, under its first name, where it is held last.
    """
    weights = dict[nn.Parameter, Site]()
    for name, module in net.named_modules():
        if isinstance(weight := getattr(module, "weight", None), nn.Parameter) and weight.dim() > 1:
            first = Site(f"{name}.weight" if name else "weight", "weight", module)
            weights[weight] = weights.pop(weight, first)
    names = {gate: name for name, gate in gates_of(net).items()}
    places = [(gate, layer) for gate, holders in holders_of(net).items() for layer in holders.values() or (gate,)]
    return [*weights.values()] + [Site(names[gate], "output", layer) for gate, layer in places]


class Views:
    """Lets a network compute with the views that its method asked for.

    A weight stays its layer's parameter between passes, so nothing else need know of its view.

    Args:
        method: The method.
        needs: What it asked for.
        run: The run.
    """

    def __init__(self, method: Method, needs: Needs, run: Run):
        self.method, self.kinds, self.run = method, needs.views, run
        self._hooks: list[_Hooks] = []

    def install(self) -> None:
        """Begin."""
        sites, net = [site for site in self.run.sites if site.kind in self.kinds], self.run.net.net
        places = [replace(site, layer=layer) for site in sites for layer in site.holders(net)]
        self._hooks = [_Hooks(self.method, place, self.run) for place in places]

    def remove(self) -> None:
        """Let the network be as it was; to be done before it is cut."""
        for hooks in self._hooks:
            hooks.remove()
        self._hooks = []

    @torch.no_grad()
    def bake(self) -> None:
        """End: from now on weights are what their views were in eval mode."""
        sites = {hooks.site.name: hooks.site for hooks in self._hooks if hooks.site.kind == "weight"}
        self.remove()
        self.run.net.eval()
        for site in sites.values():
            weight = site.layer.get_parameter("weight")
            weight.copy_(self.method.view(site, weight, self.run))


class _Hooks:
    """The hooks of one site."""

    def __init__(self, method: Method, site: Site, run: Run):
        self.method, self.site, self.run = method, site, run
        layer = site.layer
        if site.kind == "weight":
            first = layer.register_forward_pre_hook(self._before)
            self._handles = [first, layer.register_forward_hook(self._after, always_call=True)]
        else:
            self._handles = [layer.register_forward_hook(self._output)]

    def __deepcopy__(self, memo: dict[int, Any]) -> _Hooks:
        """Copies of a network that is trained compute with the same views."""
        return self

    def _before(self, layer: nn.Module, args: Any) -> None:
        self._parameters = dict(layer._parameters)
        weight = layer._parameters.pop("weight")
        assert weight is not None
        layer.__dict__["weight"] = self.method.view(self.site, weight, self.run)

    def _after(self, layer: nn.Module, args: Any, output: Any) -> None:
        if "weight" in layer.__dict__:
            del layer.__dict__["weight"]
            layer._parameters.clear()  # they are listed in the order in which they were
            layer._parameters.update(self._parameters)

    def _output(self, layer: nn.Module, args: Any, output: Tensor) -> Tensor:
        return self.method.view(self.site, output, self.run)

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()
