"""All that a model file may name: module classes with their constructor arguments, functions, and tensor methods."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

_CONVOLUTION = (
    "in_channels",
    "out_channels",
    "kernel_size",
    "stride",
    "padding",
    "dilation",
    "groups",
    "bias",
    "padding_mode",
)
_TRANSPOSED = (*_CONVOLUTION[:5], "output_padding", "groups", "bias", "dilation", "padding_mode")
_BATCH_NORM = ("num_features", "eps", "momentum", "affine", "track_running_stats")
_MAX_POOL = ("kernel_size", "stride", "padding", "dilation", "return_indices", "ceil_mode")
_AVG_POOL = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")
_SHRINK = ("lambd",)

MODULES: dict[type[nn.Module], tuple[str, ...]] = {  # attributes that are constructor arguments
    nn.Linear: ("in_features", "out_features", "bias"),
    nn.Conv1d: _CONVOLUTION, nn.Conv2d: _CONVOLUTION, nn.Conv3d: _CONVOLUTION,
    nn.ConvTranspose1d: _TRANSPOSED, nn.ConvTranspose2d: _TRANSPOSED,
    nn.BatchNorm1d: _BATCH_NORM, nn.BatchNorm2d: _BATCH_NORM, nn.BatchNorm3d: _BATCH_NORM,
    nn.InstanceNorm1d: _BATCH_NORM, nn.InstanceNorm2d: _BATCH_NORM,
    nn.LayerNorm: ("normalized_shape", "eps", "elementwise_affine", "bias"),
    nn.GroupNorm: ("num_groups", "num_channels", "eps", "affine"),
    nn.Embedding: ("num_embeddings", "embedding_dim", "padding_idx", "max_norm", "norm_type", "scale_grad_by_freq",
    "sparse"),
    nn.MaxPool1d: _MAX_POOL, nn.MaxPool2d: _MAX_POOL, nn.MaxPool3d: _MAX_POOL,
    nn.AvgPool1d: _AVG_POOL, nn.AvgPool2d: (*_AVG_POOL, "divisor_override"),
    nn.AvgPool3d: (*_AVG_POOL, "divisor_override"),
    nn.AdaptiveAvgPool1d: ("output_size",), nn.AdaptiveAvgPool2d: ("output_size",),
    nn.AdaptiveAvgPool3d: ("output_size",),
    nn.AdaptiveMaxPool1d: ("output_size",), nn.AdaptiveMaxPool2d: ("output_size",),
    nn.Dropout: ("p", "inplace"), nn.Dropout1d: ("p", "inplace"), nn.Dropout2d: ("p", "inplace"), nn.Dropout3d: ("p",
    "inplace"),
    nn.AlphaDropout: ("p", "inplace"), nn.Flatten: ("start_dim", "end_dim"), nn.Identity: (),
    nn.Upsample: ("size", "scale_factor", "mode", "align_corners"),
    nn.CELU: ("alpha", "inplace"), nn.ELU: ("alpha", "inplace"), nn.GELU: ("approximate",), nn.GLU: ("dim",),
    nn.Hardshrink: _SHRINK,
    nn.Hardsigmoid: ("inplace",), nn.Hardswish: ("inplace",), nn.Hardtanh: ("min_val", "max_val", "inplace"),
    nn.LeakyReLU: ("negative_slope", "inplace"), nn.LogSigmoid: (), nn.LogSoftmax: ("dim",), nn.Mish: ("inplace",),
    nn.PReLU: ("num_parameters",), nn.ReLU: ("inplace",), nn.ReLU6: ("inplace",), nn.SELU: ("inplace",), nn.SiLU:
    ("inplace",),
    nn.Sigmoid: (), nn.Softmax: ("dim",), nn.Softplus: ("beta", "threshold"), nn.Softshrink: _SHRINK, nn.Softsign: (),
    nn.Tanh: (),
    nn.Tanhshrink: (),
}  # fmt: skip
CLASSES = {cls.__name__: cls for cls in MODULES}

FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{f"operator.{name}": getattr(operator, name) for name in (
        "add", "sub", "mul", "truediv", "floordiv", "neg", "pos", "pow", "matmul", "getitem", "iadd", "isub", "imul",
        "itruediv",
    )},
    **{f"functional.{name}": getattr(F, name) for name in (
        "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "sigmoid", "tanh", "softplus",
        "hardtanh", "hardswish",
        "hardsigmoid", "softsign", "logsigmoid", "softmax", "log_softmax", "glu", "prelu", "linear", "dropout",
        "dropout1d", "dropout2d",
        "max_pool1d", "max_pool2d", "avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d",
        "adaptive_max_pool1d",
        "adaptive_max_pool2d", "pad", "normalize", "layer_norm", "conv1d", "conv2d", "batch_norm",
    )},
    **{f"torch.{name}": getattr(torch, name) for name in (
        "add", "sub", "mul", "div", "pow", "neg", "abs", "exp", "sqrt", "square", "clamp", "sin", "cos", "relu",
        "sigmoid", "tanh", "matmul",
        "bmm", "cat", "concat", "stack", "flatten", "reshape", "transpose", "permute", "squeeze", "unsqueeze",
        "chunk", "split", "mean", "sum",
        "amax", "amin", "maximum", "minimum", "softmax", "log_softmax", "index_select", "max_pool1d", "max_pool2d",
    )},
    "getattr": getattr,
}  # fmt: skip
FUNCTION_NAMES = {function: name for name, function in reversed(FUNCTIONS.items())}

METHODS = {
    "abs", "add", "amax", "amin", "chunk", "clamp", "clone", "contiguous", "dim", "div", "exp", "expand", "flatten",
    "matmul", "mean", "mul", "neg",
    "permute", "pow", "relu", "reshape", "sigmoid", "size", "softmax", "split", "sqrt", "square", "squeeze", "sub",
    "sum", "tanh", "transpose",
    "unsqueeze", "view",
}  # fmt: skip
