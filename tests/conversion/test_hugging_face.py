"""Encoders of Hugging Face, built from small configurations: heads, hidden units and branches of every layer, exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bayesprune as bp
from bayesprune.layers import gates_of
from tests.conversion.small import distance, switch_off

transformers = pytest.importorskip("transformers")
SIZES = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 20}
TEXT = {**SIZES, "vocab_size": 30, "max_position_embeddings": 16}
IMAGE = {**SIZES, "image_size": 8, "patch_size": 4}
LLAMA = {**TEXT, "hidden_size": 16, "num_key_value_heads": 2, "use_cache": False}
DISTILLED = {"dim": 12, "n_layers": 2, "n_heads": 4, "hidden_dim": 20, "vocab_size": 30, "max_position_embeddings": 16}
GPT = {"vocab_size": 30, "n_embd": 12, "n_layer": 2, "n_head": 4, "n_inner": 20, "n_positions": 16, "use_cache": False}


def of_text(rows: int = 2) -> dict[str, Tensor]:
    """Tokens, some of which are padding."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(rows, 6, dtype=torch.long)
    mask[1:, 4:] = 0
    return {"input_ids": torch.randint(30, (rows, 6), generator=generator), "attention_mask": mask}


def of_image(rows: int = 2) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(rows, 3, 8, 8, generator=torch.Generator().manual_seed(1)).double()}


def given(output: Any) -> Tensor:
    """The first tensor of what a model gives."""
    if isinstance(output, Tensor):
        return output
    return given(next(iter(output.values() if isinstance(output, dict) else output)))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    "model, config, sizes, inputs, heads",
    [
        ("BertModel", "BertConfig", TEXT, of_text, 4),
        ("BertForSequenceClassification", "BertConfig", TEXT, of_text, 4),
        ("GPT2Model", "GPT2Config", GPT, of_text, 4),
        ("LlamaModel", "LlamaConfig", LLAMA, of_text, 2),
        ("ViTModel", "ViTConfig", IMAGE, of_image, 4),
        pytest.param("DistilBertModel", "DistilBertConfig", DISTILLED, of_text, 4, marks=pytest.mark.slow),
        pytest.param("CLIPVisionModel", "CLIPVisionConfig", IMAGE, of_image, 4, marks=pytest.mark.slow),
    ],
)
def test_an_encoder(
    model: str, config: str, sizes: Any, inputs: Any, heads: int, attention: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    options = getattr(transformers, config)(**sizes, attn_implementation=attention, bos_token_id=1, eos_token_id=1)
    plain = getattr(transformers, model)(options).double().eval()
    for p in plain.parameters():
        if p.dim() == 1:
            nn.init.normal_(p)
    net = bp.convert(plain, example_input=inputs())
    found = sorted(gate.size for name, gate in gates_of(net).items() if "pooler" not in name)
    assert found == [1] * 4 + [heads] * 2 + [20] * 2
    x = inputs(3)  # another number of examples
    assert distance(given(net(**x)), given(plain(**x))) < 1e-9
    switch_off(net)
    with torch.no_grad():
        for gate in gates_of(net).values():
            gate.theta[:1] = 1.0  # so that no branch goes
    small = bp.compact(net, example_input=inputs())
    assert distance(given(small(**x)), given(net(**x))) < 1e-9
    bp.save(small, tmp_path / "small")
    assert torch.equal(given(bp.load(tmp_path / "small")(**x)), given(small(**x)))
