"""Gates and the layers that carry them. A network built of these runs and tests alone, without Pyro."""

from bayesprune.layers.find import GATED_LAYERS, gates_of
from bayesprune.layers.gate import Draw, Gate
from bayesprune.layers.gated import Conv1d, Conv2d, Linear
from bayesprune.layers.residual import Residual

__all__ = ["GATED_LAYERS", "Conv1d", "Conv2d", "Draw", "Gate", "Linear", "Residual", "gates_of"]
