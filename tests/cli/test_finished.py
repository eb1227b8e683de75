import json
from pathlib import Path

import pytest
import torch
from torch import nn

from bayesprune.data import load
from bayesprune.pruning import load as load_network
from tests.cli.verify import TINY, listing, run, verify_done, verify_refused, write_images


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def test_inspect_prints_the_gates_and_draws_them(finished: Path):
    result = json.loads((finished / "result.json").read_text())
    out = verify_done("inspect", finished)
    by_module = {cells(line)[0]: cells(line)[1:] for line in out.splitlines() if len(cells(line)) == 7}
    assert [by_module[name][0] for name in ("1", "2", "4", "all")] == ["64", "300", "100", "464"]
    lefts = [int(by_module[name][1]) for name in ("1", "2", "4", "all")]
    assert sum(lefts[:3]) == lefts[3] < 464
    assert by_module["all"][3] == f"{100 * result['gates_converged']:.1f} %"
    assert f"picture: {finished / 'inspect.png'}" in out
    assert (finished / "inspect.png").read_bytes().startswith(b"\x89PNG")


def test_inspect_prints_json(finished: Path):
    record, result = (
        json.loads(verify_done("inspect", finished, "--json")),
        json.loads((finished / "result.json").read_text()),
    )
    assert (record["epoch"], record["epochs"]) == (6, 6)
    assert [(row["name"], row["start"]) for row in record["gates"]] == [("1", 64), ("2", 300), ("4", 100)]
    assert sum(row["left"] for row in record["gates"]) == result["gates_left"]


def test_inspect_needs_no_more_than_a_checkpoint(finished: Path):
    for path in finished.iterdir():
        if path.name != "checkpoint.pt":
            path.unlink()
    assert "gates after epoch 6; lowest and highest θ of those not removed" in verify_done("inspect", finished)
    assert listing(finished) == ["checkpoint.pt", "inspect.png"]


def test_inspect_shows_branches(tmp_path: Path):
    verify_done("train", *TINY, "--net", "resmlp3", "--out", tmp_path / "run")
    rows = [cells(line) for line in verify_done("inspect", tmp_path / "run").splitlines()]
    assert [row[:2] for row in rows if len(row) == 7] == [
        ["module", "gates at start"],
        ["3", "1"],
        ["4", "1"],
        ["5", "1"],
        ["all", "3"],
    ]


def test_evaluate_repeats_the_result(finished: Path):
    result = json.loads((finished / "result.json").read_text())
    score = json.loads(verify_done("evaluate", finished, "--json"))
    assert {key: score[key] for key in ("params", "macs")} == {key: result[key] for key in ("params", "macs")}
    assert score["accuracy"] == pytest.approx(result["accuracy"], abs=1e-12)
    assert score["nll"] == pytest.approx(result["nll"], rel=1e-5)
    assert (score["examples"], score["data"]) == (360, "digits")


def test_evaluate_prints_a_table(finished: Path):
    result = json.loads((finished / "result.json").read_text())
    rows = [cells(line) for line in verify_done("evaluate", finished).splitlines()]
    assert ["accuracy", f"{100 * result['accuracy']:.2f} %"] in rows
    assert ["parameters", f"{result['params']:,}"] in rows


def test_evaluate_refuses_data_that_do_not_fit(finished: Path, tmp_path: Path):
    large = write_images(tmp_path / "large", size=9, classes=2)
    verify_refused("evaluate", finished, "--data", large, says=("(3, 9, 9)", "(1, 8, 8)"))
    verify_refused("evaluate", finished, "--data", "digit", says=("'digit'",))


def test_evaluate_refuses_more_classes_than_outputs(tmp_path: Path):
    two = write_images(tmp_path / "two", size=8, classes=2)
    three = write_images(tmp_path / "three", size=8, classes=3)
    verify_done("train", "--data", two, "--epochs", "1", "--log-gamma", "0.001", "--out", tmp_path / "run")
    assert json.loads(verify_done("evaluate", tmp_path / "run", "--json"))["examples"] == 2
    verify_refused("evaluate", tmp_path / "run", "--data", three, says=("3 classes", "2 outputs"))


@pytest.mark.parametrize(("form", "name"), [("safetensors", "m.safetensors"), ("torch", "m.pt2"), ("onnx", "m.onnx")])
@pytest.mark.filterwarnings("ignore")
def test_an_exported_network_gives_the_same_outputs(finished: Path, tmp_path: Path, form: str, name: str):
    x = load("digits", limit=600).test[:5][0]
    expected = load_network(finished / "model.safetensors")(x)
    out = tmp_path / name
    assert f"wrote {out}" in verify_done("export", finished, "--format", form, "--out", out)
    if form == "safetensors":
        actual = load_network(out)(x)
    elif form == "torch":
        actual = torch.export.load(out).module()(x)
    else:
        onnxruntime = pytest.importorskip("onnxruntime")
        actual = torch.from_numpy(onnxruntime.InferenceSession(out).run(None, {"input": x.numpy()})[0])
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_widths_are_rounded_with_zeros_for_what_the_run_removed(finished: Path, tmp_path: Path):
    out, x = tmp_path / "m.safetensors", load("digits", limit=600).test[:5][0]
    small = load_network(finished / "model.safetensors")
    verify_done("export", finished, "--format", "safetensors", "--round-to", "8", "--out", out)
    rounded = load_network(out)
    torch.testing.assert_close(rounded(x), small(x), rtol=1e-5, atol=1e-5)
    before, after = ([part for part in net.modules() if isinstance(part, nn.Linear)] for net in (small, rounded))
    for mine, theirs in zip(after, before, strict=True):
        assert mine.in_features == -(-theirs.in_features // 8) * 8
        assert mine.out_features in (-(-theirs.out_features // 8) * 8, 10)
    assert any(mine.in_features > theirs.in_features for mine, theirs in zip(after, before, strict=True))
    (finished / "checkpoint.pt").unlink()
    verify_refused("export", finished, "--format", "torch", "--round-to", "8", "--out", "m.pt2", says=("checkpoint",))
    verify_refused("export", finished, "--format", "torch", "--round-to", "0", "--out", "m.pt2", says=("--round-to",))


@pytest.mark.parametrize(
    ("form", "out", "says"),
    [
        ("pickle", "m.pkl", ("--format pickle", "onnx, safetensors, torch")),
        ("safetensors", "run/result.json", ("exists",)),
        ("safetensors", "nowhere/m.safetensors", ("nowhere",)),
        ("torch", "m.bin", (".pt2",)),
    ],
)
def test_an_export_that_cannot_work_is_refused(
    finished: Path, tmp_path: Path, form: str, out: str, says: tuple[str, ...]
):
    before = listing(tmp_path)
    verify_refused("export", finished, "--format", form, "--out", tmp_path / out, says=says)
    assert listing(tmp_path) == before


@pytest.mark.parametrize(
    "args", [("inspect",), ("evaluate",), ("export", "--format", "onnx", "--out", "m.onnx"), ("train", "--resume")]
)
def test_a_folder_that_is_not_there_is_refused(tmp_path: Path, args: tuple[str, ...]):
    verify_refused(*args, tmp_path / "nowhere", says=(str(tmp_path / "nowhere"),))
    assert listing(tmp_path) == []


@pytest.mark.parametrize("args", [("evaluate",), ("export", "--format", "torch", "--out", "m.pt2")])
def test_a_run_that_is_not_finished_has_no_network_yet(finished: Path, args: tuple[str, ...]):
    (finished / "model.safetensors").unlink()
    verify_refused(*args, finished, says=("model.safetensors", f"--resume {finished}"))


def test_a_tampered_network_is_refused(finished: Path):
    path = finished / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-4] + bytes(byte ^ 1 for byte in content[-4:]))
    verify_refused("evaluate", finished, says=(str(path),))


def test_version_and_help():
    assert verify_done("--version").startswith("bayesprune 0.")
    for command in ("train", "inspect", "evaluate", "export"):
        assert command in verify_done("--help")
        assert "Usage: bayesprune" in verify_done(command, "--help")


def test_ctrl_c_ends_any_command_with_one_line(finished: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupt(folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bayesprune.cli.commands.inspect_gates", interrupt)
    result = run("inspect", finished)
    assert (result.exit_code, result.stderr) == (130, "Interrupted.\n")
