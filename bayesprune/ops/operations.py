"""The operations that the analysis knows, grouped by what they do to the entries along a feature axis."""

from __future__ import annotations

import operator
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from bayesprune.layers import Conv1d, Conv2d, Linear, NormalConv1d, NormalConv2d, NormalLinear

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, Conv1d, Conv2d, NormalConv1d, NormalConv2d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LINEARS = (nn.Linear, Linear, NormalLinear)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
POINTWISE = (
    nn.CELU, nn.ELU, nn.GELU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.Identity, nn.LeakyReLU,
    nn.LogSigmoid, nn.Mish,
    nn.ReLU, nn.ReLU6, nn.SELU, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Softshrink, nn.Softsign, nn.Tanh, nn.Tanhshrink,
)  # fmt: skip
POOLS: dict[type[nn.Module], int] = {  # by the rank of their input
    nn.MaxPool1d: 3, nn.AvgPool1d: 3, nn.AdaptiveAvgPool1d: 3, nn.AdaptiveMaxPool1d: 3,
    nn.MaxPool2d: 4, nn.AvgPool2d: 4, nn.AdaptiveAvgPool2d: 4, nn.AdaptiveMaxPool2d: 4,
    nn.MaxPool3d: 5, nn.AvgPool3d: 5, nn.AdaptiveAvgPool3d: 5, nn.AdaptiveMaxPool3d: 5,
}  # fmt: skip

POINTWISE_FUNCTIONS: set[Callable[..., object]] = {
    F.relu, F.relu6, F.leaky_relu, F.elu, F.selu, F.celu, F.gelu, F.silu, F.mish, F.sigmoid, F.tanh, F.softplus,
    F.hardtanh, F.hardswish,
    F.hardsigmoid, F.softsign, F.logsigmoid, torch.relu, torch.sigmoid, torch.tanh, torch.abs, torch.neg, torch.exp,
    torch.sqrt, torch.square,
    torch.clamp, torch.sin, torch.cos, operator.neg, operator.pos, operator.pow, torch.pow,
    torch.log, torch.log2, torch.log10, torch.log1p, torch.expm1, torch.erf, torch.tan, torch.atan, torch.sinh,
    torch.reciprocal, torch.rsqrt, torch.sign, F.hardshrink, F.softshrink, F.tanhshrink, F.threshold,
}  # fmt: skip
POINTWISE_METHODS = {
    "abs",
    "clamp",
    "clone",
    "contiguous",
    "exp",
    "neg",
    "pow",
    "relu",
    "sigmoid",
    "sqrt",
    "log",
    "log1p",
    "expm1",
    "erf",
    "sin",
    "cos",
    "sign",
    "reciprocal",
    "rsqrt",
    "detach",
    "square",
    "tanh",
}
BINARY_FUNCTIONS: set[Callable[..., object]] = {
    operator.add, operator.sub, operator.mul, operator.truediv, operator.iadd, operator.isub, operator.imul,
    operator.itruediv,
    torch.add, torch.sub, torch.mul, torch.div, torch.maximum, torch.minimum,
}  # fmt: skip
BINARY_METHODS = {"add", "sub", "mul", "div"}
PRODUCTS: set[object] = {operator.mul, operator.imul, torch.mul, "mul"}
SUMS: set[object] = {operator.add, operator.iadd, operator.sub, operator.isub, torch.add, torch.sub, "add", "sub"}
DIFFERENCES: set[object] = {operator.sub, operator.isub, torch.sub, "sub"}
CONCATENATIONS: set[Callable[..., object]] = {torch.cat, torch.concat, torch.concatenate}
POOL_FUNCTIONS: dict[Callable[..., object], int] = {
    F.max_pool1d: 3, F.avg_pool1d: 3, F.adaptive_avg_pool1d: 3, F.adaptive_max_pool1d: 3,
    F.max_pool2d: 4, F.avg_pool2d: 4, F.adaptive_avg_pool2d: 4, F.adaptive_max_pool2d: 4,
    F.max_pool3d: 5, F.avg_pool3d: 5, F.adaptive_avg_pool3d: 5, F.adaptive_max_pool3d: 5,
    torch.max_pool1d: 3, torch.max_pool2d: 4, torch.avg_pool1d: 3, torch.adaptive_avg_pool1d: 3,
}  # fmt: skip
TOTALS: set[object] = {torch.sum, "sum"}
EXTREMA: set[object] = {torch.max, torch.min, "max", "min"}  # with their places
REDUCTIONS: set[object] = {torch.mean, torch.amax, torch.amin, "mean", "amax", "amin"}
DROPOUT_FUNCTIONS: set[Callable[..., object]] = {F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, torch.dropout}
FLATTENS: set[object] = {torch.flatten, "flatten"}
TRANSPOSITIONS: set[object] = {torch.transpose, torch.swapaxes, "transpose", "swapaxes"}
PERMUTATIONS: set[object] = {torch.permute, "permute"}
SQUEEZES: set[object] = {torch.squeeze, "squeeze"}
UNSQUEEZES: set[object] = {torch.unsqueeze, "unsqueeze"}
RESAMPLES = (nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d)
RESAMPLE_FUNCTIONS: set[object] = {F.interpolate, F.upsample}
PADS: dict[type[nn.Module], str] = {  # with their mode
    **dict.fromkeys((nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d), "constant"),
    **dict.fromkeys((nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d), "constant"),
    **dict.fromkeys((nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d), "reflect"),
    **dict.fromkeys((nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d), "replicate"),
    **dict.fromkeys((nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d), "circular"),
}
STATISTICS = (
    nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.LocalResponseNorm, nn.InstanceNorm1d, nn.InstanceNorm2d,
    nn.InstanceNorm3d, nn.Softmax, nn.LogSoftmax, nn.Softmin,
)  # fmt: skip
RESHAPES: set[object] = {torch.reshape, "reshape", "view"}
INPLACE_OPERATORS: dict[object, Callable[..., object]] = {  # with what they do, out of place
    operator.iadd: operator.add, operator.isub: operator.sub, operator.imul: operator.mul, operator.itruediv:
    operator.truediv,
}  # fmt: skip
VIEWS: set[object] = {  # whose results may be their inputs, or parts of them
    nn.Identity, nn.Flatten, nn.Unflatten, *DROPOUTS, *DROPOUT_FUNCTIONS, *FLATTENS, *RESHAPES, *TRANSPOSITIONS,
    *PERMUTATIONS, *SQUEEZES, *UNSQUEEZES, operator.getitem, operator.pos, getattr,
}  # fmt: skip
VIEW_NAMES = {
    "expand", "expand_as", "broadcast_to", "chunk", "split", "tensor_split", "unbind", "narrow", "select", "movedim",
    "swapdims", "swapaxes", "view_as", "reshape_as", "unflatten", "contiguous", "detach", "to", "type_as", "float",
    "t", "unfold", "diagonal", "data",
}  # fmt: skip
