"""Torch's transformer layers, with masks: heads, hidden units and branches of every layer, exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bayesprune as bp
from bayesprune import layers
from bayesprune.layers import gates_of
from tests.conversion.small import distance, switch_off
from tests.conversion.test_heads import Torchs

CAUSAL = nn.Transformer.generate_square_subsequent_mask(5, dtype=torch.float64)
PADDED = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])


def spread(model: nn.Module) -> nn.Module:
    """The model with every bias and scale drawn, in float64 and eval mode."""
    torch.manual_seed(0)
    for p in model.parameters():
        if p.dim() == 1:
            nn.init.normal_(p)
    return model.double().eval()


class Sequences(nn.Module):
    """Layers of torch, between maps of features."""

    def __init__(self, inner: nn.Module, **given: Any):
        super().__init__()
        self.first, self.inner, self.last, self.given = nn.Linear(6, 12), inner, nn.Linear(12, 3), given

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        h = self.first(x)
        if isinstance(self.inner, nn.Transformer):
            masks = {"src_key_padding_mask": padding, "memory_key_padding_mask": padding}
            h = self.inner(h, h.flip(1), **masks, **self.given)
        else:
            h = self.inner(h, src_key_padding_mask=padding, **self.given)
        return self.last(h)


def encoder(count: int = 1, **options: Any) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(12, 4, 10, batch_first=True, **options)
    return nn.TransformerEncoder(layer, count, nn.LayerNorm(12), enable_nested_tensor=False)


def both(**options: Any) -> nn.Transformer:
    with pytest.warns(UserWarning) if options.get("norm_first") else torch.no_grad():
        return nn.Transformer(12, 4, 1, 1, 10, batch_first=True, **options)


@pytest.mark.parametrize(
    "inner, given, padded",
    [
        (lambda: encoder(2, activation="gelu"), {}, False),
        (lambda: encoder(norm_first=True, bias=False), {"mask": CAUSAL}, False),
        (encoder, {"mask": CAUSAL < 0}, True),
        (encoder, {"mask": CAUSAL, "is_causal": True}, False),
        (both, {"tgt_mask": CAUSAL, "tgt_is_causal": True}, True),
        pytest.param(lambda: both(norm_first=True), {}, False, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_every_layer_has_heads_units_and_branches(inner: Any, given: Any, padded: bool, tmp_path: Path) -> None:
    model = spread(Sequences(inner(), **given))
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    inputs = (x, PADDED) if padded else (x,)
    net = bp.convert(model, example_input=inputs)
    assert distance(net(*inputs), model(*inputs)) < 1e-12
    attentions = sum(isinstance(module, nn.MultiheadAttention) for module in model.modules())
    mlps = sum(isinstance(m, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer) for m in model.modules())
    assert sorted(g.size for g in gates_of(net).values()) == [1] * (attentions + mlps) + [4] * attentions + [10] * mlps
    switch_off(net)
    small = bp.compact(net, example_input=inputs)
    assert distance(small(*inputs), net(*inputs)) < 1e-12
    bp.save(small, tmp_path / "small")
    assert torch.equal(bp.load(tmp_path / "small")(*inputs), small(*inputs))


def test_skipped_layers_stay_torchs_and_a_decoder_is_followed() -> None:
    model = spread(Sequences(encoder(2)))
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    net = bp.convert(model, example_input=x, skip=["inner.layers.0"])
    assert type(net.get_submodule("inner.layers.0")) is nn.TransformerEncoderLayer
    assert not any("layers.0" in name for name in gates_of(net)) and len(gates_of(net)) == 4
    layer = spread(nn.TransformerDecoderLayer(12, 4, 10, batch_first=True))
    given = (torch.randn(2, 5, 12, dtype=torch.float64), torch.randn(2, 7, 12, dtype=torch.float64))
    net = bp.convert(layer, example_input=given)
    switch_off(net)
    assert distance(bp.compact(net, example_input=given)(*given), net(*given)) < 1e-12


@pytest.mark.filterwarnings("ignore:Support for mismatched")  # masks of both kinds, which torch will refuse one day
@pytest.mark.parametrize("steps", [None, CAUSAL, CAUSAL < 0])
@pytest.mark.parametrize("padding", [None, PADDED, PADDED.double() * -3])
def test_masks_are_those_of_torch(steps: Tensor | None, padding: Tensor | None) -> None:
    class Masked(Torchs):
        def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
            return self.attention(x, x, x, attn_mask=steps, key_padding_mask=other)[0]

    model, x = spread(Masked(12, 4)), torch.randn(2, 5, 12, dtype=torch.float64)
    inputs = (x,) if padding is None else (x, padding)
    net = bp.convert(model, example_input=inputs)
    assert isinstance(net.get_submodule("attention"), layers.MultiheadAttention)
    assert distance(net(*inputs), model(*inputs)) < 1e-12


def test_a_branch_with_a_mask_is_trained_and_removed() -> None:
    model = spread(Sequences(encoder())).float()
    x, y = torch.randn(8, 5, 6), torch.randn(8, 5, 3)
    padding = PADDED.repeat(4, 1)
    net = bp.convert(model, example_input=(x, padding))
    blocks = [m for m in net.modules() if isinstance(m, layers.Residual)]
    with torch.no_grad():
        blocks[0].gate.theta.zero_()
    bnn = bp.BayesianNet(net, likelihood="gaussian", num_data=8, example_input=(x, padding))
    data: Any = [((x[:4], padding[:4]), y[:4]), ((x[4:], padding[4:]), y[4:])]
    bp.fit(bnn, data, epochs=2)
    small = bp.compact(bnn.eval(), example_input=(x, padding))
    torch.testing.assert_close(small(x, padding), bnn.net(x, padding), rtol=0, atol=1e-5)
    assert "inner.layers.0.residual" not in gates_of(bnn.net)
