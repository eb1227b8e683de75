from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from bayesprune.errors import ConfigError
from bayesprune.pruning import compact, export_onnx, export_torch
from tests.pruning.nets import NETS
from tests.pruning.verify import draw_thetas


def small(name: str) -> tuple[nn.Module, torch.Tensor]:
    build, shape = NETS[name]
    net = build()
    draw_thetas(net, 0)
    return compact(net), torch.randn(5, *shape)


@pytest.mark.parametrize("name", ["mlp_with_input_gates", "residual"])
def test_torch_export_for_any_batch(name: str, tmp_path: Path) -> None:
    net, x = small(name)
    export_torch(net, x[:2], tmp_path / "net.pt2")
    assert net.training and os.listdir(tmp_path) == ["net.pt2"]
    program = torch.export.load(tmp_path / "net.pt2").module()
    with torch.no_grad():
        assert torch.allclose(program(x), net.eval()(x), atol=1e-6)


def test_onnx_for_any_batch(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    net, x = small("lenet")
    export_onnx(net, x[:2], tmp_path / "net.onnx")
    assert os.listdir(tmp_path) == ["net.onnx"]
    session = runtime.InferenceSession(tmp_path / "net.onnx")
    with torch.no_grad():
        assert torch.allclose(torch.from_numpy(session.run(None, {"input": x.numpy()})[0]), net.eval()(x), atol=1e-5)


@pytest.mark.parametrize(("export", "ending"), [(export_torch, ".pt2"), (export_onnx, ".onnx")])
def test_refusals(export, ending: str, tmp_path: Path) -> None:
    net = nn.Linear(3, 2)
    with pytest.raises(ConfigError, match=r"at least two examples, got shape \(1, 3\)"):
        export(net, torch.zeros(1, 3), tmp_path / f"net{ending}")
    with pytest.raises(ConfigError, match=f"must end in {ending}, got 'net.bin'"):
        export(net, torch.zeros(2, 3), tmp_path / "net.bin")
    with pytest.raises(ConfigError, match="does not exist"):
        export(net, torch.zeros(2, 3), tmp_path / "no" / f"net{ending}")
