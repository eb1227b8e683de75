"""Layers with a forward pass that can be followed, in the place of equal ones whose own cannot, so that they get gates.

They are torch's transformer layers, each of which is one call, and linear layers of transformers, whose weights lie the
other way round.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class EncoderLayer(nn.TransformerEncoderLayer):
    """What torch's computes while it trains (Vaswani et al. 2017, section 3.1), written out.

    In eval mode torch's may take a faster way, which gives the same but at steps that are padding.
    """

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """Attention of a sequence to itself and a network for each step, each added to what it is given.

        Args:
            src: The sequence.
            src_mask: Of which steps each step takes notice.
            src_key_padding_mask: Which steps of each example are padding.
            is_causal: Whether the mask is the causal one.
        """

        def attend(x: Tensor) -> Tensor:
            return self.dropout1(attended(self.self_attn, x, x, src_mask, src_key_padding_mask, is_causal))

        def think(x: Tensor) -> Tensor:
            return self.dropout2(self.linear2(self.dropout(self.activation(self.linear1(x)))))

        return added(src, self.norm_first, (attend, self.norm1), (think, self.norm2))


class DecoderLayer(nn.TransformerDecoderLayer):
    """What torch's computes, written out."""

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """Attention of a sequence to itself and to another one, and a network for each step.

        Args:
            tgt: The sequence.
            memory: The other one.
            tgt_mask: Of which of its own steps each step takes notice.
            memory_mask: Of which steps of the other one.
            tgt_key_padding_mask: Which steps of each example are padding.
            memory_key_padding_mask: Which of the other one.
            tgt_is_causal: Whether the first mask is the causal one.
            memory_is_causal: Whether the second one is.
        """

        def attend(x: Tensor) -> Tensor:
            return self.dropout1(attended(self.self_attn, x, x, tgt_mask, tgt_key_padding_mask, tgt_is_causal))

        def recall(x: Tensor) -> Tensor:
            mask, padding = memory_mask, memory_key_padding_mask
            return self.dropout2(attended(self.multihead_attn, x, memory, mask, padding, memory_is_causal))

        def think(x: Tensor) -> Tensor:
            return self.dropout3(self.linear2(self.dropout(self.activation(self.linear1(x)))))

        return added(tgt, self.norm_first, (attend, self.norm1), (recall, self.norm2), (think, self.norm3))


class Encoder(nn.TransformerEncoder):
    """What torch's computes, without looking at its masks."""

    def forward(
        self,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
    ) -> Tensor:
        """The layers in turn.

        Args:
            src: The sequence.
            mask: As for a layer.
            src_key_padding_mask: As for a layer.
            is_causal: Whether the mask is the causal one.
        """
        for layer in self.layers:
            src = layer(src, mask, src_key_padding_mask, bool(is_causal))
        return src if self.norm is None else self.norm(src)


class Decoder(nn.TransformerDecoder):
    """What torch's computes, without looking at its masks."""

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """The layers in turn.

        Args:
            tgt: The sequence.
            memory: The other one.
            tgt_mask: As for a layer.
            memory_mask: As for a layer.
            tgt_key_padding_mask: As for a layer.
            memory_key_padding_mask: As for a layer.
            tgt_is_causal: As for a layer.
            memory_is_causal: As for a layer.
        """
        masks = tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask
        for layer in self.layers:
            tgt = layer(tgt, memory, *masks, bool(tgt_is_causal), memory_is_causal)
        return tgt if self.norm is None else self.norm(tgt)


class Transformer(nn.Transformer):
    """What torch's computes, without looking at shapes."""

    def forward(
        self,
        src: Tensor,
        tgt: Tensor,
        src_mask: Tensor | None = None,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        src_is_causal: bool | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """Encoder and decoder.

        Args:
            src: What the encoder is given.
            tgt: What the decoder is given.
            src_mask: As for the encoder.
            tgt_mask: As for the decoder.
            memory_mask: As for the decoder.
            src_key_padding_mask: As for the encoder.
            tgt_key_padding_mask: As for the decoder.
            memory_key_padding_mask: As for the decoder.
            src_is_causal: As for the encoder.
            tgt_is_causal: As for the decoder.
            memory_is_causal: As for the decoder.
        """
        memory = self.encoder(src, src_mask, src_key_padding_mask, src_is_causal)
        masks = tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask
        return self.decoder(tgt, memory, *masks, tgt_is_causal, memory_is_causal)


WRITTEN: dict[type[nn.Module], type[nn.Module]] = {
    nn.TransformerEncoderLayer: EncoderLayer,
    nn.TransformerDecoderLayer: DecoderLayer,
    nn.TransformerEncoder: Encoder,
    nn.TransformerDecoder: Decoder,
    nn.Transformer: Transformer,
}


TURNED = "transformers.pytorch_utils.Conv1D"
"""A linear layer whose weights lie the other way round."""


def write_out(net: nn.Module, allowed: Callable[[str], bool]) -> None:
    """Let layers within which gates may go be such whose forward pass can be followed, in place.

    Args:
        net: The network.
        allowed: Whether gates may go into the module of this name.
    """
    weights: dict[nn.Parameter, nn.Parameter] = {}
    for name, module in list(net.named_modules(remove_duplicate=False)):
        inside = [f"{name}.{part}".strip(".") for part, _ in module.named_modules()]
        if type(module) in WRITTEN and any(map(allowed, inside)):
            module.__class__ = WRITTEN[type(module)]
        elif name and f"{type(module).__module__}.{type(module).__qualname__}" == TURNED:
            net.set_submodule(name, _linear(module, weights))


def _linear(turned: Any, weights: dict[nn.Parameter, nn.Parameter]) -> nn.Linear:
    """A linear layer that computes what one does whose weights lie the other way round.

    Args:
        turned: The other one.
        weights: Those that were turned so far, so that layers that share them do so on.
    """
    weight, (inputs, outputs) = turned.weight, turned.weight.shape
    made = nn.Linear(inputs, outputs, device="meta")
    turned_back = nn.Parameter(weight.detach().T.contiguous(), requires_grad=weight.requires_grad)
    made.weight, made.bias = weights.setdefault(weight, turned_back), turned.bias
    return made.train(turned.training)


def attended(
    attention: nn.Module, x: Tensor, other: Tensor, mask: Tensor | None, padding: Tensor | None, is_causal: bool
) -> Tensor:
    """What attention makes of two sequences.

    Args:
        attention: Torch's.
        x: The sequence that attends.
        other: The one that is attended to.
        mask: Of which steps each step takes notice.
        padding: Which steps of the other sequence are padding.
        is_causal: Whether the mask is the causal one.
    """
    masks = {"attn_mask": mask, "key_padding_mask": padding, "is_causal": is_causal}
    found: Tensor = attention(x, other, other, need_weights=False, **masks)[0]
    return found


def added(x: Tensor, norm_first: bool, *branches: tuple[Callable[[Tensor], Tensor], nn.Module]) -> Tensor:
    """Branches that are added in turn, each normalised before or behind the sum.

    Args:
        x: What the first is given.
        norm_first: Whether before.
        branches: The branches, each with its normalisation.
    """
    for branch, norm in branches:
        x = x + branch(norm(x)) if norm_first else norm(x + branch(x))
    return x
