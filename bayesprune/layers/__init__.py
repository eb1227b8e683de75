"""Gates and the layers that carry them. A network built of these runs and tests alone, without Pyro."""

from bayesprune.layers.attention import MultiheadAttention
from bayesprune.layers.column_groups import ColumnGroups
from bayesprune.layers.find import gates_of, holders_of, plain_parameters
from bayesprune.layers.gate import Draw, Gate
from bayesprune.layers.gated import Conv1d, Conv2d, GatedLayer, Linear
from bayesprune.layers.modes import eval_mode
from bayesprune.layers.normal import (
    SCALES,
    NormalConv1d,
    NormalConv2d,
    NormalLayer,
    NormalLinear,
    give_normal_slabs,
    normal_layers,
)
from bayesprune.layers.recurrent import GRU, LSTM, RNN, RecurrentLayer
from bayesprune.layers.residual import Residual
from bayesprune.layers.spectral import SpectralDropout
from bayesprune.layers.transposed import ConvTranspose2d
from bayesprune.layers.units import Standardise, Units, moments
from bayesprune.layers.whole import Whole

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "SCALES",
    "ColumnGroups",
    "Conv1d",
    "Conv2d",
    "ConvTranspose2d",
    "Draw",
    "Gate",
    "GatedLayer",
    "Linear",
    "MultiheadAttention",
    "NormalConv1d",
    "NormalConv2d",
    "NormalLayer",
    "NormalLinear",
    "RecurrentLayer",
    "Residual",
    "SpectralDropout",
    "Standardise",
    "Units",
    "Whole",
    "eval_mode",
    "gates_of",
    "give_normal_slabs",
    "holders_of",
    "moments",
    "normal_layers",
    "plain_parameters",
]
