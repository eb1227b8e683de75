"""``--net timm:NAME``: a network whose heads show by its shapes alone is trained and left small like any other."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

import bayesprune as bp
from tests.cli.verify import run, verify_done, write_images


class Attending(nn.Module):
    """A block of attention that is written out, as timm's transformers have it."""

    def __init__(self, num_classes: int, in_chans: int = 3, img_size: tuple[int, int] = (8, 8)) -> None:
        super().__init__()
        self.patches, self.norm = nn.Conv2d(in_chans, 12, 4, 4), nn.LayerNorm(12)
        self.qkv, self.proj, self.head = nn.Linear(12, 36), nn.Linear(12, 12), nn.Linear(12, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        examples, steps, features = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(examples, steps, 3, 3, 4).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return self.head((x + self.proj(mixed.reshape(examples, steps, features))).mean(1))


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> None:
    """What of timm is used."""
    module = ModuleType("timm")
    module.list_models = lambda: ["attending"]  # type: ignore[attr-defined]
    module.create_model = lambda name, **options: Attending(**options)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "timm", module)


def test_attention_that_is_written_out_loses_heads(timm: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for picture in ("run.draw_gates", "run.draw_diagram", "commands.draw_inspected", "commands.draw_score"):
        monkeypatch.setattr(f"bayesprune.cli.{picture}", lambda *args, **kwargs: None)  # half of the time otherwise
    torch.manual_seed(0)
    images, folder = write_images(tmp_path / "images", 8, classes=2, train=6, test=2), tmp_path / "run"
    options = ("--net", "timm:attending", "--data", images, "--epochs", "4", "--batch-size", "4", "--slab", "normal")
    verify_done("train", *options, "--budget", "macs=0.8", "--out", folder)
    result = json.loads((folder / "result.json").read_text())
    assert result["budget_met"] and result["gates"] == 1 + 3 and result["gates_left"] < 4
    assert json.loads(verify_done("evaluate", folder, "--json"))["examples"] == 4
    file = tmp_path / "small.safetensors"
    assert run("export", folder, "--format", "safetensors", "--out", file, "--round-to", "4").exit_code == 0
    x = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(bp.load(file)(x), bp.load(folder / "model.safetensors")(x))
