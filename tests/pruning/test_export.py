from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bayesprune.errors import ConfigError, DataError
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


class Two(nn.Module):
    """Two inputs, the second by place or by name, and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor, scale: Tensor) -> dict[str, Tensor]:
        hidden = torch.relu(self.first(x)) * scale
        return {"logits": self.last(hidden), "level": hidden.mean(1)}


@pytest.mark.parametrize("by_name", [False, True])
def test_torch_export_of_several_inputs(by_name: bool, tmp_path: Path) -> None:
    net, x, scale = Two().eval(), torch.randn(5, 4), torch.rand(5, 1)
    example = {"x": x[:2], "scale": scale[:2]} if by_name else (x[:2], scale[:2])
    export_torch(net, example, tmp_path / "net.pt2")
    program = torch.export.load(tmp_path / "net.pt2").module()
    found = program(x=x, scale=scale) if by_name else program(x, scale)
    with torch.no_grad():
        torch.testing.assert_close(found, net(x, scale))


@pytest.mark.slow
@pytest.mark.parametrize("by_name", [False, True])
def test_onnx_of_several_inputs_is_named_by_the_parameters(by_name: bool, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    net, x, scale = Two().eval(), torch.randn(5, 4), torch.rand(5, 1)
    example = {"x": x[:2], "scale": scale[:2]} if by_name else (x[:2], scale[:2])
    export_onnx(net, example, tmp_path / "net.onnx")
    session = runtime.InferenceSession(tmp_path / "net.onnx")
    assert [output.name for output in session.get_outputs()] == ["logits", "level"]
    found = session.run(["level", "logits"], {"scale": scale.numpy(), "x": x.numpy()})
    with torch.no_grad():
        wanted = net(x, scale)
    torch.testing.assert_close(torch.from_numpy(found[0]), wanted["level"])
    torch.testing.assert_close(torch.from_numpy(found[1]), wanted["logits"])


@pytest.mark.parametrize(("export", "ending"), [(export_torch, ".pt2"), (export_onnx, ".onnx")])
def test_refusals(export, ending: str, tmp_path: Path) -> None:
    net = nn.Linear(3, 2)
    with pytest.raises(ConfigError, match=r"at least two examples, got shape \(1, 3\)"):
        export(net, torch.zeros(1, 3), tmp_path / f"net{ending}")
    with pytest.raises(DataError, match="expected a tensor or an array of numpy, got a str"):
        export(net, "x", tmp_path / f"net{ending}")
    with pytest.raises(DataError, match="the first dimension of each must be the batch"):
        export(net, (torch.zeros(2, 3), torch.zeros(3, 3)), tmp_path / f"net{ending}")
    with pytest.raises(DataError, match=r"does not take inputs of shape \(2, 4\) float32: .*Linear"):
        export(net, torch.zeros(2, 4), tmp_path / f"net{ending}")
    with pytest.raises(ConfigError, match=f"must end in {ending}, got 'net.bin'"):
        export(net, torch.zeros(2, 3), tmp_path / "net.bin")
    with pytest.raises(ConfigError, match="does not exist"):
        export(net, torch.zeros(2, 3), tmp_path / "no" / f"net{ending}")
