"""Net-Trim: the sparsest weights with which layers give nearly what they gave (Aghasi et al. 2017, 2020)."""

from __future__ import annotations

import warnings
from typing import ClassVar

import torch
from torch import Tensor

from bayesprune.arguments import checked_arguments
from bayesprune.checked import real
from bayesprune.errors import ConfigError
from bayesprune.methods.protocol.layerwise import LayerByLayer
from bayesprune.methods.protocol.signals import LinearMap
from bayesprune.methods.solvers.admm import least_weights

ROOM = 1.1**0.5
"""By how much more than the trained weights those of a cascade may miss."""


class NetTrim(LayerByLayer):
    """Finds for each layer the weights of the least Σ|w|, its bias among them, that give nearly what it gave.

    Where a unit gave more than 0 behind its ReLU it has to give that again, and all of a layer together may miss by a
    share ε of it; where it gave 0 it may give anything that is not above. The last layer has to give all its outputs
    again. In a cascade, units that were silent may give what the trained weights make of the new inputs, and the layers
    but the first may miss by √1.1 of what these weights do. Then what is left is trained.

    Args:
        epsilon: ε.
        cascade: As for `LayerByLayer`.
        examples: As for `LayerByLayer`.
        until: As for `LayerByLayer`.
        relu: Whether ReLUs follow all layers but the last; if not, all outputs have to be given again.

    Warns:
        UserWarning: if a layer of a cascade is left without weights, because the layers before it miss so much.

    Raises:
        ConfigError: as `LayerByLayer`, for an ε outside (0, 1), and before training, if something else than a ReLU
            follows a layer but the last.

    Examples:
        >>> NetTrim(epsilon=0.05).options()
        {'epsilon': 0.05, 'cascade': False, 'examples': 1000, 'until': 0.5, 'relu': True}

    Sources:
        Aghasi, Abdi, Nguyen & Romberg 2017, "Net-Trim: Convex Pruning of Deep Neural Networks with Performance
        Guarantee", and Aghasi, Abdi & Romberg 2020, "Fast Convex Pruning of Deep Neural Networks". That one position
        of each example is taken where there are several is ours.
    """

    name: ClassVar[str] = "net_trim"

    @checked_arguments
    def __init__(
        self,
        epsilon: float = 0.1,
        cascade: bool = False,
        examples: int = 1000,
        until: float = 0.5,
        relu: bool = True,
    ):
        super().__init__(cascade, examples, until)
        self.epsilon = real("net_trim: epsilon", epsilon, 0, 1)
        self.relu = relu
        self._first = ""

    def check_layers(self, layers: list[LinearMap]) -> None:
        """Refuse hidden layers that no ReLU follows, and remember which is the first."""
        self._first = layers[0].name
        other = next((layer.name for layer in layers[:-1] if not layer.rectified), None)
        if self.relu and other:
            raise ConfigError(
                f"net_trim: what follows {other.removesuffix('.weight')!r} is no ReLU; take relu=False, by which "
                "layers have to give all their outputs again, or fold a batch normalisation between the two beforehand"
            )

    def solve(self, layer: LinearMap, x: Tensor, outputs: Tensor) -> tuple[Tensor, float]:
        """The weights of the least Σ|w|, see the class."""
        rectified = self.relu and layer.rectified
        y = outputs.relu() if rectified else outputs
        active = y > 1e-6 if rectified else torch.ones_like(y, dtype=torch.bool)
        ceiling, radius = torch.zeros_like(y), self.epsilon * float(y.norm())
        if self.cascade and layer.name != self._first:
            now = x @ layer.matrix()
            ceiling, radius = now, ROOM * float(((now - y) * active).norm())
        if radius >= float((y * active).norm()) and bool(active.any()):
            warnings.warn(
                f"net_trim: all that {layer.name!r} gave may be missed, so it is left without weights", stacklevel=2
            )
        return least_weights(x, y, active, ceiling, radius)
