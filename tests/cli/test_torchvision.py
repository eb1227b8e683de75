"""``--net torchvision:NAME`` and ``--weights FILE``: a network that exists is converted, trained and left small."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from bayesprune import convert, recommended
from bayesprune.cli.config import resolve
from bayesprune.cli.run import _settings, prepare
from bayesprune.conversion.weights import TrainedWeights
from bayesprune.conversion.zoos import converted, plain_network
from bayesprune.errors import CheckpointError, ConfigError
from tests.cli.verify import listing, run, start_and_stop, verify_done, verify_refused, verify_same_end, write_images

NET = "torchvision:squeezenet1_1"
SHAPE = (3, 32, 32)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    return write_images(tmp_path_factory.mktemp("images"), 32, classes=3, train=8, test=2)


@pytest.fixture(scope="module")
def squeezenet() -> nn.Module:
    """One that was trained on five classes."""
    torch.manual_seed(1)
    return models.squeezenet1_1(num_classes=5)


@pytest.fixture(scope="module")
def weights(squeezenet: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "squeezenet.pt"
    torch.save(squeezenet.state_dict(), path)
    return path


@pytest.mark.filterwarnings("default:.*it is left out")
def test_a_run_from_trained_weights_ends_resumes_and_is_used_like_any_other(
    images: str, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for picture in ("run.draw_gates", "run.draw_diagram", "commands.draw_inspected", "commands.draw_score"):
        monkeypatch.setattr(f"bayesprune.cli.{picture}", lambda *args, **kwargs: None)  # half of the time otherwise
    file = tmp_path / "mine.pt"
    file.write_bytes(weights.read_bytes())
    options = ("--net", NET, "--data", images, "--weights", str(file), "--epochs", "2", "--batch-size", "8")
    options += ("--layer-decay", "0.9", "--freeze-statistics")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    done = run("train", *options, "--out", whole)
    assert done.exit_code == 0, done.output
    assert done.stderr.count("\n") == 1
    assert "classifier.1.weight, classifier.1.bias) is for 5 classes, the data have 3: it is left out" in done.stderr

    recorded = json.loads((whole / "config.json").read_text())["options"]
    assert (recorded["net"], recorded["weights"]) == (NET, str(file))
    assert recorded["weights_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()

    start_and_stop(*options, folder=broken, epoch=1)
    file.unlink()  # the checkpoint has all that is needed
    verify_done("train", "--resume", broken)
    verify_same_end(broken, whole)

    assert "_gate" in verify_done("inspect", whole)
    scored = json.loads(verify_done("evaluate", whole, "--json"))
    assert scored["examples"] == 6
    verify_done("export", whole, "--format", "safetensors", "--out", tmp_path / "small.safetensors")
    assert "small.safetensors" in listing(tmp_path)


def test_trained_weights_arrive_but_for_a_head_of_other_classes(squeezenet: nn.Module, weights: Path):
    x = torch.rand(2, *SHAPE)
    same = converted(NET, SHAPE, 5, TrainedWeights.read(weights)).eval()
    torch.testing.assert_close(same(x), squeezenet.eval()(x))
    with pytest.warns(UserWarning, match="for 5 classes, the data have 7"):
        other = converted(NET, SHAPE, 7, TrainedWeights.read(weights)).eval()
    assert other(x).shape == (2, 7)
    assert torch.equal(other.get_parameter("features.0.weight"), squeezenet.get_parameter("features.0.weight"))


def test_options_for_trained_weights_arrive(images: str, squeezenet: nn.Module, weights: Path):
    given = {"freeze_weights": True, "freeze_statistics": True, "layer_decay": 0.8, "num_classes": 5}
    ready = prepare(resolve({"net": NET, "data": images, "weights": str(weights), "batch_size": 8, **given}))
    assert not any(p.requires_grad for p in ready.net.parameters())
    head = next(p for name, p in ready.net.weights().items() if name == "classifier.1.weight")
    assert torch.equal(head, squeezenet.get_parameter("classifier.1.weight"))  # the data have three classes
    settings = _settings(ready.config)
    assert (settings.layer_decay, settings.freeze_statistics) == (0.8, True)
    plain = prepare(resolve({"net": NET, "data": images, "batch_size": 8}))
    assert all(p.requires_grad for p in plain.net.weights().values())


def test_safetensors_are_read_as_well(squeezenet: nn.Module, tmp_path: Path):
    save_file(squeezenet.state_dict(), tmp_path / "w")
    found = TrainedWeights.read(tmp_path / "w").tensors
    assert found.keys() == squeezenet.state_dict().keys()
    assert all(torch.equal(found[name], value) for name, value in squeezenet.state_dict().items())


def test_the_recipe_goes_by_the_layers_also_for_trained_weights():
    name = "mobilenet_v3_small"
    fresh = resolve({"net": f"torchvision:{name}"})
    trained = resolve({"net": f"torchvision:{name}", "weights": "w.pt"})
    recipe = recommended(convert(plain_network(f"torchvision:{name}", 10), example_input=torch.zeros(2, *SHAPE)))
    assert fresh.lr == recipe.lr
    assert trained.lr == fresh.lr
    assert resolve({"net": f"torchvision:{name}", "weights": "w.pt", "lr": 0.3}).lr == 0.3
    assert (fresh.optimizer, fresh.batch_size, fresh.price) == (trained.optimizer, trained.batch_size, recipe.price)
    assert trained.default_folder.name == f"torchvision-{name}-digits-seed0"


def _written(path: Path, what: object) -> Path:
    torch.save(what, path)
    return path


def test_weights_that_do_not_fit_are_refused_by_what_is_wrong(squeezenet: nn.Module, tmp_path: Path):
    state = squeezenet.state_dict()
    first, path = "features.0.weight", tmp_path / "w.pt"
    for changed, says in (
        ({name: value for name, value in state.items() if name != first}, f"has no {first}, which the network has"),
        ({**state, "more": torch.zeros(1)}, "holds more, which the network has not"),
        ({**state, first: torch.zeros(64, 3, 5, 5)}, rf"{first} is \(64, 3, 5, 5\) of float32.* \(64, 3, 3, 3\)"),
        ({**state, "classifier.1.weight": torch.zeros(3, 500, 1, 1)}, r"classifier.1.weight is \(3, 500, 1, 1\)"),
        ({**state, first: torch.zeros(64, 3, 3, 3).long()}, f"{first} is .* of int64"),
    ):
        with pytest.raises(ConfigError, match=says):
            converted(NET, SHAPE, 5, TrainedWeights.read(_written(path, changed)))


@pytest.mark.parametrize("content", [b"", b"not weights", b"\x00" * 8 + b"{", b"PK\x03\x04" + b"\x00" * 60])
def test_a_file_that_is_no_weights_is_refused(content: bytes, tmp_path: Path):
    path = tmp_path / "w"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="neither safetensors nor a state_dict; write one with"):
        TrainedWeights.read(path)


def test_a_saved_network_and_other_tables_are_refused(tmp_path: Path):
    with pytest.raises(CheckpointError, match="neither safetensors nor a state_dict"):
        TrainedWeights.read(_written(tmp_path / "net", nn.Linear(1, 1)))  # which would run code
    for other in ([1], {"epoch": 3}, torch.zeros(2)):
        with pytest.raises(CheckpointError, match="holds no table of tensors by name"):
            TrainedWeights.read(_written(tmp_path / "other", other))


def test_what_cannot_work_is_one_line(images: str, weights: Path, tmp_path: Path):
    out = ("--out", tmp_path / "run")
    tiny = write_images(tmp_path / "tiny", 8, classes=2)
    for options, says in (
        (("--net", "torchvision:resnet81"), ("no classification network 'resnet81'", "closest name is 'resnet18'")),
        (("--net", "squeezenet1_1"), ("unknown network", "for another library's write torchvision:squeezenet1_1")),
        (("--data", tiny.partition(":")[2]), ("for the folder of that name write imagefolder:",)),
        (("--net", "torchvision:"), ("no classification network ''",)),
        (("--net", NET), ("takes colour images", "(1, 8, 8)")),
        (("--net", NET, "--data", tiny), ("squeezenet1_1 with images of shape (3, 8, 8)", "does not go through")),
        (("--weights", weights), ("lenet300 takes none", "--net torchvision:NAME")),
        (("--net", NET, "--data", images, "--weights", tmp_path), ("no such file of weights",)),
        (("--net", NET, "--data", images, "--freeze-weights"), ("without --weights they would stay random",)),
        (("--net", NET, "--data", images, "--num-classes", "2"), ("--num-classes 2: the data have 3 classes",)),
        (("--layer-decay", "1.1"), ("--layer-decay",)),
        (("--net", "torchvision:resnet18", "--data", images, "--weights", weights), ("features.0.weight",)),
    ):
        verify_refused("train", *options, *out, says=says)
    assert not (tmp_path / "run").exists()


def test_a_run_without_a_checkpoint_goes_on_from_the_same_file_only(images: str, weights: Path):
    config = resolve({"net": NET, "data": images, "weights": str(weights), "weights_sha256": "0" * 64})
    with pytest.raises(ConfigError, match="not the one that the run was started with"):
        prepare(config)
