"""All that a model file may name: module classes with their constructor arguments, functions, methods, attributes."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
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
_LP_POOL = ("norm_type", "kernel_size", "stride", "ceil_mode")
_ADAPTIVE_MAX = ("output_size", "return_indices")
_DROPOUT = ("p", "inplace")
_SHRINK = ("lambd",)
_RECURRENT = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional")
_CELL = ("input_size", "hidden_size", "bias")
_EMBEDDING = ("num_embeddings", "embedding_dim", "padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse")
_PADS = (
    nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d,
    nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d, nn.CircularPad1d, nn.CircularPad2d,
    nn.CircularPad3d,
)  # fmt: skip

MODULES: dict[type[nn.Module], tuple[str, ...]] = {  # constructor arguments; attributes, but for those in ELSEWHERE
    nn.Linear: ("in_features", "out_features", "bias"),
    nn.Bilinear: ("in1_features", "in2_features", "out_features", "bias"),
    nn.Conv1d: _CONVOLUTION, nn.Conv2d: _CONVOLUTION, nn.Conv3d: _CONVOLUTION,
    nn.ConvTranspose1d: _TRANSPOSED, nn.ConvTranspose2d: _TRANSPOSED, nn.ConvTranspose3d: _TRANSPOSED,
    nn.BatchNorm1d: _BATCH_NORM, nn.BatchNorm2d: _BATCH_NORM, nn.BatchNorm3d: _BATCH_NORM,
    nn.InstanceNorm1d: _BATCH_NORM, nn.InstanceNorm2d: _BATCH_NORM, nn.InstanceNorm3d: _BATCH_NORM,
    nn.LayerNorm: ("normalized_shape", "eps", "elementwise_affine", "bias"),
    nn.RMSNorm: ("normalized_shape", "eps", "elementwise_affine"),
    nn.GroupNorm: ("num_groups", "num_channels", "eps", "affine"),
    nn.LocalResponseNorm: ("size", "alpha", "beta", "k"),
    nn.Embedding: _EMBEDDING, nn.EmbeddingBag: (*_EMBEDDING, "mode", "include_last_offset"),
    nn.LSTM: (*_RECURRENT, "proj_size"), nn.GRU: _RECURRENT, nn.RNN: (*_RECURRENT, "nonlinearity"),
    nn.LSTMCell: _CELL, nn.GRUCell: _CELL, nn.RNNCell: (*_CELL, "nonlinearity"),
    nn.MultiheadAttention: ("embed_dim", "num_heads", "dropout", "bias", "add_bias_kv", "add_zero_attn", "kdim",
    "vdim", "batch_first"),
    nn.TransformerEncoderLayer: ("d_model", "nhead", "dim_feedforward", "dropout", "activation", "layer_norm_eps",
    "batch_first", "norm_first", "bias"),
    nn.TransformerDecoderLayer: ("d_model", "nhead", "dim_feedforward", "dropout", "activation", "layer_norm_eps",
    "batch_first", "norm_first", "bias"),
    nn.MaxPool1d: _MAX_POOL, nn.MaxPool2d: _MAX_POOL, nn.MaxPool3d: _MAX_POOL,
    nn.AvgPool1d: _AVG_POOL, nn.AvgPool2d: (*_AVG_POOL, "divisor_override"),
    nn.AvgPool3d: (*_AVG_POOL, "divisor_override"),
    nn.LPPool1d: _LP_POOL, nn.LPPool2d: _LP_POOL,
    nn.AdaptiveAvgPool1d: ("output_size",), nn.AdaptiveAvgPool2d: ("output_size",),
    nn.AdaptiveAvgPool3d: ("output_size",),
    nn.AdaptiveMaxPool1d: _ADAPTIVE_MAX, nn.AdaptiveMaxPool2d: _ADAPTIVE_MAX, nn.AdaptiveMaxPool3d: _ADAPTIVE_MAX,
    **dict.fromkeys(_PADS, ("padding",)),
    nn.ConstantPad1d: ("padding", "value"), nn.ConstantPad2d: ("padding", "value"),
    nn.ConstantPad3d: ("padding", "value"),
    nn.Dropout: _DROPOUT, nn.Dropout1d: _DROPOUT, nn.Dropout2d: _DROPOUT, nn.Dropout3d: _DROPOUT,
    nn.AlphaDropout: _DROPOUT, nn.FeatureAlphaDropout: _DROPOUT,
    nn.Flatten: ("start_dim", "end_dim"), nn.Unflatten: ("dim", "unflattened_size"), nn.Identity: (),
    nn.Fold: ("output_size", "kernel_size", "dilation", "padding", "stride"),
    nn.Unfold: ("kernel_size", "dilation", "padding", "stride"),
    nn.PixelShuffle: ("upscale_factor",), nn.PixelUnshuffle: ("downscale_factor",), nn.ChannelShuffle: ("groups",),
    nn.Upsample: ("size", "scale_factor", "mode", "align_corners", "recompute_scale_factor"),
    nn.UpsamplingNearest2d: ("size", "scale_factor"), nn.UpsamplingBilinear2d: ("size", "scale_factor"),
    nn.CosineSimilarity: ("dim", "eps"), nn.PairwiseDistance: ("norm", "eps", "keepdim"),
    nn.CELU: ("alpha", "inplace"), nn.ELU: ("alpha", "inplace"), nn.GELU: ("approximate",), nn.GLU: ("dim",),
    nn.Hardshrink: _SHRINK,
    nn.Hardsigmoid: ("inplace",), nn.Hardswish: ("inplace",), nn.Hardtanh: ("min_val", "max_val", "inplace"),
    nn.LeakyReLU: ("negative_slope", "inplace"), nn.LogSigmoid: (), nn.LogSoftmax: ("dim",), nn.Mish: ("inplace",),
    nn.PReLU: ("num_parameters",), nn.ReLU: ("inplace",), nn.ReLU6: ("inplace",),
    nn.RReLU: ("lower", "upper", "inplace"), nn.SELU: ("inplace",), nn.SiLU: ("inplace",),
    nn.Sigmoid: (), nn.Softmax: ("dim",), nn.Softmax2d: (), nn.Softmin: ("dim",), nn.Softplus: ("beta", "threshold"),
    nn.Softshrink: _SHRINK, nn.Softsign: (), nn.Tanh: (), nn.Tanhshrink: (),
    nn.Threshold: ("threshold", "value", "inplace"),
}  # fmt: skip
CLASSES = {cls.__name__: cls for cls in MODULES}
_LAYER = {
    "d_model": "self_attn.embed_dim", "nhead": "self_attn.num_heads", "dim_feedforward": "linear1.out_features",
    "dropout": "dropout.p", "layer_norm_eps": "norm1.eps", "batch_first": "self_attn.batch_first",
    "bias": "linear1.bias",
}  # fmt: skip
ELSEWHERE: dict[type[nn.Module], dict[str, str]] = {  # where arguments are that are no attributes of the same name
    nn.MultiheadAttention: {"bias": "in_proj_bias", "add_bias_kv": "bias_k"},
    nn.TransformerEncoderLayer: _LAYER,
    nn.TransformerDecoderLayer: _LAYER,
}
PRESENCE = {"bias", "add_bias_kv"}
"""Arguments that say whether there is a tensor."""
ACTIVATIONS: dict[object, str] = {F.relu: "relu", F.gelu: "gelu"}
"""Functions that are arguments of modules, by the strings that stand for them."""


def _of(owner: object, prefix: str, names: str) -> Iterable[tuple[str, Callable[..., Any]]]:
    return ((f"{prefix}.{name}", getattr(owner, name)) for name in names.split())


FUNCTIONS: dict[str, Callable[..., Any]] = dict([
    *_of(operator, "operator", """
        add sub mul truediv floordiv mod neg pos pow matmul getitem iadd isub imul itruediv eq ne lt le gt ge and_ or_
        invert
    """),
    *_of(F, "functional", """
        relu relu6 leaky_relu elu selu celu gelu silu mish sigmoid tanh softplus hardtanh hardswish hardsigmoid
        hardshrink softshrink tanhshrink softsign logsigmoid threshold rrelu softmax softmin log_softmax glu prelu
        linear bilinear embedding one_hot dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout
        max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d lp_pool1d lp_pool2d
        adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
        adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
        pad normalize layer_norm rms_norm group_norm batch_norm instance_norm local_response_norm
        conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d fold unfold interpolate grid_sample
        affine_grid pixel_shuffle pixel_unshuffle channel_shuffle cosine_similarity pairwise_distance
        scaled_dot_product_attention
    """),
    *_of(torch, "torch", """
        add sub mul div true_divide floor_divide remainder fmod pow neg abs sign exp expm1 exp2 log log1p log2 log10
        sqrt rsqrt square reciprocal clamp clamp_min clamp_max sin cos tan asin acos atan atan2 sinh cosh asinh acosh
        atanh erf erfc floor ceil round trunc frac lerp addcmul addcdiv nan_to_num relu sigmoid tanh
        softmax log_softmax logsumexp dropout cumsum cumprod diff
        matmul mm bmm mv dot einsum addmm baddbmm outer cdist
        cat concat concatenate stack hstack vstack dstack flatten unflatten reshape transpose swapaxes swapdims permute
        movedim squeeze unsqueeze chunk split tensor_split unbind narrow select index_select gather masked_fill where
        relu_ tril triu roll flip repeat_interleave tile broadcast_to zeros_like ones_like full_like
        arange zeros ones full
        mean sum prod amax amin max min argmax argmin std var norm maximum minimum topk sort argsort
        eq ne lt le gt ge logical_and logical_or logical_not logical_xor isnan isinf
        conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d max_pool1d max_pool2d max_pool3d
        avg_pool1d adaptive_avg_pool1d layer_norm group_norm batch_norm instance_norm bilinear prelu celu selu
        pixel_shuffle pixel_unshuffle channel_shuffle cosine_similarity
    """),
    ("getattr", getattr), ("len", len),
])  # fmt: skip
FUNCTION_NAMES = {function: name for name, function in reversed(FUNCTIONS.items())}

ATTRIBUTES = {"shape", "ndim", "dtype", "device", "mT", "values", "indices"}
"""What of a tensor, or of what ``max`` and ``topk`` give, may be read."""

_METHODS = """
    abs add addmm all amax amin any argmax argmin argsort baddbmm bmm bool ceil chunk clamp clamp_max clamp_min clone
    contiguous cos cumprod cumsum detach diff dim div double eq erf exp expand expand_as expm1 flatten flip float
    floor floor_divide gather ge gt half index_select int le lerp log log10 log1p log2 log_softmax
    logical_and logical_not logical_or logsumexp long lt masked_fill matmul max maximum mean min minimum mm movedim
    mul nan_to_num narrow ndimension ne neg norm numel outer permute pow prod reciprocal relu remainder repeat
    repeat_interleave reshape reshape_as roll round rsqrt select sigmoid sign sin size softmax sort split sqrt square
    squeeze std sub sum swapaxes swapdims t tan tanh tensor_split tile to topk transpose tril triu true_divide trunc
    type_as unbind unflatten unsqueeze var view view_as where
    abs_ add_ clamp_ div_ exp_ masked_fill_ mul_ neg_ relu_ sigmoid_ sqrt_ squeeze_ sub_ tanh_ unsqueeze_ zero_
"""
METHODS = set(_METHODS.split())
