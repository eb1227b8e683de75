"""One good call of every public function and class: what it is given, made anew for each call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import bayesprune as bp
from bayesprune import data, distributions, infer, layers, metrics, networks, optim, pruning, reports, selection
from bayesprune.data.images import Raw
from bayesprune.training import (
    Budget,
    Engine,
    EpochRow,
    History,
    Schedule,
    Settings,
    evaluate,
    evidence_bound,
    fit_best,
)
from bayesprune.types import IndexMap
from tests.fuzz.made import batch, bayesian, half, images, loader, made, network, remap_arguments, splits, table, thetas

Call = tuple[Callable[..., Any], dict[str, Any]]


CALLS: dict[str, Callable[[], Call]] = {
    "BayesianNet": lambda: (
        bp.BayesianNet,
        {
            "net": network(),
            "likelihood": "categorical",
            "num_data": 8,
            "prior": None,
            "weight_precision": 1.0,
            "slab": "point",
            "slab_scale": None,
            "example_input": None,
            "loss_on": None,
        },
    ),
    "predict": lambda: (bayesian().predict, {"x": batch()[0], "num_samples": 2, "batch_size": 4}),
    "compact": lambda: (
        bp.compact,
        {"model": bayesian(), "posterior": False, "fold_norms": False, "round_to": 8, "example_input": None},
    ),
    "cost": lambda: (bp.cost, {"model": network(), "example_input": batch()[0]}),
    "fit": lambda: (
        bp.fit,
        {
            "model": bayesian(),
            "train_loader": loader(),
            "epochs": 1,
            "val_loader": loader(),
            "method": "svi",
            "prune": True,
            "settings": Settings(),
            "engine": Engine(),
            "out": "run",
            "on_epoch": print,
            "loggers": (),
            "progress": True,
            "run": None,
        },
    ),
    "load": lambda: (bp.load, {"path": "nowhere.safetensors"}),
    "save": lambda: (bp.save, {"model": bp.compact(bayesian()), "path": "small.safetensors", "run": "a" * 32}),
    "Linear": lambda: (
        layers.Linear,
        {"in_features": 4, "out_features": 3, "bias": True, "gate": "unit", "theta": 0.5},
    ),
    "ColumnGroups": lambda: (layers.ColumnGroups, {"groups": [[0, 2], [1]], "theta": 0.5}),
    "Conv1d": lambda: (
        layers.Conv1d,
        {"in_channels": 2, "out_channels": 3, "kernel_size": 3, "gate": "unit", "theta": 0.5},
    ),
    "Conv2d": lambda: (
        layers.Conv2d,
        {"in_channels": 2, "out_channels": 3, "kernel_size": 3, "gate": "layer", "theta": 0.5},
    ),
    "ConvTranspose2d": lambda: (
        layers.ConvTranspose2d,
        {"in_channels": 2, "out_channels": 3, "kernel_size": 3, "gate": "unit", "theta": 0.5},
    ),
    "convert": lambda: (
        bp.convert,
        {
            "model": nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)),
            "units": True,
            "branches": True,
            "heads": True,
            "head_sizes": False,
            "inputs": False,
            "streams": False,
            "example_input": batch()[0],
            "only": (),
            "skip": (),
            "theta": 0.9,
        },
    ),
    "structures": lambda: (bp.structures, {"net": network(), "example_input": batch()[0]}),
    "Whole": lambda: (layers.Whole, {"whole": nn.ReLU()}),
    "SpectralDropout": lambda: (layers.SpectralDropout, {"axis": "space", "threshold": 0.1, "p": 0.2, "rule": "or"}),
    "groups": lambda: (bp.groups, {"net": network(), "example_input": batch()[0]}),
    "Gate": lambda: (layers.Gate, {"size": 3, "dim": 1, "per_batch": False, "within": False, "theta": 0.5}),
    "Draw": lambda: (layers.Draw, {"sizes": [3, 1]}),
    "MultiheadAttention": lambda: (
        layers.MultiheadAttention,
        {"embed_dim": 8, "num_heads": 2, "bias": True, "kdim": None, "vdim": None, "dropout": 0.1, "theta": 0.5},
    ),
    **{
        kind.__name__: lambda kind=kind: (
            kind,
            {"input_size": 4, "hidden_size": 3, "gate": layers.Gate(3, dim=-1, per_batch=True), "bias": True},
        )
        for kind in (layers.LSTM, layers.GRU)
    },
    "RNN": lambda: (
        layers.RNN,
        {
            "input_size": 4,
            "hidden_size": 3,
            "gate": layers.Gate(3, dim=-1, per_batch=True),
            "nonlinearity": "relu",
            "batch_first": True,
        },
    ),
    "Residual": lambda: (layers.Residual, {"body": nn.Linear(3, 3), "shortcut": None, "theta": 0.5}),
    "gates_of": lambda: (layers.gates_of, {"net": network()}),
    "holders_of": lambda: (layers.holders_of, {"net": network()}),
    "give_normal_slabs": lambda: (layers.give_normal_slabs, {"net": network(), "scale": 0.1, "skip": ["0"]}),
    "normal_layers": lambda: (layers.normal_layers, {"net": network()}),
    "plain_parameters": lambda: (layers.plain_parameters, {"module": network()}),
    "Augment": lambda: (data.Augment, {"pad": 1, "flip": True}),
    "EpochLoader": lambda: (
        data.EpochLoader,
        {"data": images(), "batch_size": 4, "seed": 0, "augment": data.Augment(1), "device": "cpu", "shard": (0, 1)},
    ),
    "set_epoch": lambda: (data.EpochLoader(images(), 4, 0).set_epoch, {"epoch": 1}),
    "Images": lambda: (
        data.Images,
        {"raw": Raw(*images()[:]), "mean": torch.tensor([1.0]), "std": torch.tensor([2.0])},
    ),
    "check_classes": lambda: (data.check_classes, {"train": ["a", "b"], "test": ["a", "b"], "where": "here"}),
    "check_inputs": lambda: (data.check_inputs, {"x": batch()[0], "where": "here"}),
    "check_labels": lambda: (data.check_labels, {"y": batch()[1], "num_classes": 3, "where": "here"}),
    "data.load": lambda: (data.load, {"name": "digits", "data_dir": "nowhere", "limit": 50, "download": False}),
    "loaders": lambda: (
        data.loaders,
        {
            "splits": splits(),
            "batch_size": 4,
            "seed": 0,
            "augment": data.Augment(1),
            "device": "cpu",
            "shard": (0, 1),
        },
    ),
    "FixedInclusion": lambda: (distributions.FixedInclusion, {"probs": 0.5}),
    "FixedInclusion of log_gamma": lambda: (distributions.FixedInclusion, {"log_gamma": 1.0}),
    "FlatteningPrior": lambda: (distributions.FlatteningPrior, {"log_gamma": 2.0}),
    "SpikeAndSlab": lambda: (distributions.SpikeAndSlab, {"probs": 0.5, "scale": 1.0}),
    "layer_adaptive_log_gamma": lambda: (
        distributions.layer_adaptive_log_gamma,
        {"widths": [10, 5, 2], "num_data": 100, "c": 1e-9},
    ),
    "Categorical": lambda: (infer.Categorical, {"label_smoothing": 0.1, "class_weight": [1.0, 2.0]}),
    "Gaussian": lambda: (infer.Gaussian, {"scale": 0.1}),
    "LearnedGaussian": lambda: (infer.LearnedGaussian, {"scale": 1.0, "shape": (2,), "prior_count": 1.0}),
    "NegativeBinomial": lambda: (infer.NegativeBinomial, {"concentration": 2.0}),
    "Ordinal": lambda: (infer.Ordinal, {"num_classes": 3}),
    "StudentT": lambda: (infer.StudentT, {"scale": 1.0, "degrees": 4.0, "shape": (2,), "prior_count": 1.0}),
    "standardised": lambda: (
        bp.standardised,
        {"net": network(), "likelihood": "categorical", **dict(zip("xy", batch(), strict=True))},
    ),
    "Standardise": lambda: (layers.Standardise, {"location": half(3), "scale": half(3)}),
    "Units": lambda: (layers.Units, {"location": half(3), "scale": half(3)}),
    "GateELBO": lambda: (infer.GateELBO, {"estimator": "auto", "num_particles": 1}),
    "GateSampler": lambda: (infer.GateSampler, {"net": bayesian(), "seed": 0}),
    "get_estimator": lambda: (infer.get_estimator, {"estimator": "auto"}),
    "paired_differences": lambda: (
        infer.paired_differences,
        {"net": bayesian(), **dict(zip("xy", batch(), strict=True)), "xi": torch.ones(8, 7), "on": None},
    ),
    "shared_differences": lambda: (
        infer.shared_differences,
        {"net": bayesian(), **dict(zip("xy", batch(), strict=True)), "xi": torch.ones(8, 7), "on": None},
    ),
    "auroc": lambda: (metrics.auroc, {"inside_scores": half(3), "outside_scores": half(4)}),
    "calibration": lambda: (
        metrics.calibration,
        {"probabilities": half(4, 2), "labels": torch.tensor([0, 1, 0, 1]), "bins": 5},
    ),
    "coverage": lambda: (metrics.coverage, {"low": half(3) - 1, "high": half(3) + 1, "targets": half(3)}),
    "entropy": lambda: (metrics.entropy, {"probabilities": half(4, 2)}),
    "regression_scores": lambda: (
        metrics.regression_scores,
        {"log_density": half(3), "mean": half(3), "targets": half(3)},
    ),
    "build": lambda: (networks.build, {"name": "lenet300", "input_shape": (1, 8, 8), "num_classes": 3}),
    "from_torchvision": lambda: (networks.from_torchvision, {"model": nn.Linear(2, 2), "units": False}),
    "lenet300": lambda: (networks.lenet300, {"input_shape": (1, 8, 8), "num_classes": 3, "widths": (5, 4)}),
    "lenet5": lambda: (networks.lenet5, {"input_shape": (1, 28, 28), "num_classes": 3, "widths": (2, 3, 4)}),
    "resmlp": lambda: (networks.resmlp, {"input_shape": (4,), "num_classes": 3, "depth": 2, "width": 4}),
    "resnet": lambda: (
        networks.resnet,
        {"depth": 8, "input_shape": (3, 8, 8), "num_classes": 3, "width": 2, "units": False},
    ),
    "resnet18": lambda: (networks.resnet18, {"input_shape": (3, 32, 32), "num_classes": 3, "units": False}),
    "vgg16": lambda: (networks.vgg16, {"input_shape": (3, 32, 32), "num_classes": 3, "width": 2}),
    "ProjectedGateSGD": lambda: (optim.projected.ProjectedGateSGD, {"params": [half(3)], "lr": 0.1}),
    "ProjectedSGD": lambda: (
        optim.ProjectedSGD,
        {"optim_args": {"lr": 0.1}, "weights": torch.optim.Adam, "weights_args": {"lr": 0.1}},
    ),
    "remap_optimizer": lambda: (optim.remap_optimizer, remap_arguments()),
    "CostPrice": lambda: (pruning.CostPrice, {"nu": 0.1, "params": 0.5, "reference": bp.cost(network(), batch()[0])}),
    "ExpectedCost": lambda: (
        pruning.ExpectedCost,
        {"net": network(), "example": batch()[0], "measures": ("params", "macs"), "seconds": None},
    ),
    "RemovalMonitor": lambda: (pruning.RemovalMonitor, {"num_gates": 3, "patience": 2, "device": None}),
    "export_torch": lambda: (
        pruning.export_torch,
        {"model": bp.compact(bayesian()), "example_input": batch()[0], "path": "small.pt2"},
    ),
    "gates_left": lambda: (pruning.gates_left, {"theta": half(3)}),
    "unsavable": lambda: (pruning.unsavable, {"net": network()}),
    "read_run": lambda: (pruning.read_run, {"path": "nowhere.safetensors"}),
    "kept_gates": lambda: (pruning.kept_gates, {"net": network(), "index": IndexMap()}),
    "measure_latency": lambda: (pruning.measure_latency, {"net": network(), "example": batch()[0]}),
    "compare_latencies": lambda: (pruning.compare_latencies, {"nets": [network()], "example": batch()[0]}),
    "prices": lambda: (pruning.prices, {"nu": 0.1, "gradient": thetas()}),
    "shrink": lambda: (
        pruning.shrink,
        {"net": network(), "off": {"0": torch.tensor([True] + [False] * 5)}, "may_empty": False, "round_to": 4},
    ),
    "enumerate_models": lambda: (
        selection.enumerate_models,
        {
            **dict(zip("xy", table(), strict=True)),
            "inclusion": 0.5,
            "slab_scale": 1.0,
            "noise_scale": 1.0,
            "intercept_scale": 1.0,
        },
    ),
    "mean_field": lambda: (
        selection.mean_field,
        {
            **dict(zip("xy", table(), strict=True)),
            "inclusion": 0.5,
            "slab_scale": 1.0,
            "noise_scale": 1.0,
            "intercept_scale": 1.0,
            "starts": None,
        },
    ),
    "friedman_regression": lambda: (
        selection.friedman_regression,
        {"num_data": 10, "num_inputs": 6, "noise_scale": 1.0, "seed": 0},
    ),
    "sparse_regression": lambda: (
        selection.sparse_regression,
        {
            "num_data": 10,
            "num_inputs": 6,
            "num_active": 2,
            "correlation": 0.0,
            "effect": 1.0,
            "noise_scale": 1.0,
            "seed": 0,
        },
    ),
    "power_and_fdr": lambda: (
        selection.power_and_fdr,
        {"selected": torch.tensor([True, False]), "support": torch.tensor([True, False])},
    ),
    "knockoffs": lambda: (selection.knockoffs, {"x": table()[0], "groups": [[0], [1, 2]], "seed": 0}),
    "knockoff_filter": lambda: (
        selection.knockoff_filter,
        {
            **dict(zip("xy", table(), strict=True)),
            "importance": lambda x, y: x.abs().sum(0),
            "fdr": 0.2,
            "groups": [[0], [1, 2]],
            "seed": 0,
        },
    ),
    "interactions": lambda: (
        selection.interactions,
        {"predict": lambda x: x.sum(1), "x": table()[0], "inputs": [0, 2], "num_rows": 8, "seed": 0},
    ),
    "stability": lambda: (selection.stability, {"probabilities": half(3, 2), "threshold": 0.4, "level": 0.9}),
    "select": lambda: (selection.select, {"probabilities": half(3), "fdr": 0.1}),
    "Budget": lambda: (Budget, {"measure": "macs", "fraction": 0.5}),
    "Budget.parse": lambda: (Budget.parse, {"text": "macs=0.5"}),
    "Engine": lambda: (Engine, {"device": "cpu", "precision": "float32", "compile": False, "strategy": "auto"}),
    "Schedule": lambda: (
        Schedule,
        {"epochs": 10, "steps_per_epoch": 5, "travel": 5.0, "checks_per_epoch": 4, "last": 0.1},
    ),
    "Settings": lambda: (
        Settings,
        {
            "lr": 0.1,
            "optimizer": torch.optim.Adam,
            "price": None,
            "budget": None,
            "estimator": "auto",
            "every": 4,
            "temperature": 1.0,
            "schedule": {"travel": 2.0},
            "patience": 2,
            "layer_decay": 0.9,
            "freeze_statistics": True,
        },
    ),
    "compare": lambda: (
        bp.compare,
        {
            "settings": {
                **{"title": "t", "seeds": [0], "macs": [0.5], "compute": [1]},
                "tuning": {"trials": 1, "seed": 1, "held_out": 0.5},
                **{"tasks": [{"net": "made", "data": "made", "epochs": 1}], "methods": {"none": {}}},
            },
            "out": "compared",
            "workers": 1,
            "methods": ["none"],
            "tasks": ["made-made"],
            "data_dir": "data",
            "networks": {"made": lambda shape, classes: nn.Sequential(nn.Flatten(), nn.Linear(16, classes))},
            "data": {"made": splits()},
            "on_row": None,
        },
    ),
    "recommended": lambda: (bp.recommended, {"net": bayesian(), "weights": "normal"}),
    "evaluate": lambda: (
        evaluate,
        {"model": network(), "loader": loader(), "likelihood": infer.Categorical(), "loss_on": None},
    ),
    "evidence_bound": lambda: (
        evidence_bound,
        {"net": bayesian(), "loader": loader(), "num_samples": 2, "temperature": 1.0},
    ),
    "fit_best": lambda: (
        fit_best,
        {"nets": [bayesian()], "train_loader": loader(), "epochs": 1, "settings": Settings(), "fewer": False},
    ),
    "draw_gates": lambda: (reports.draw_gates, {"thetas": {"a": [half(3)] * 2}, "path": "a.png", "title": "t"}),
    "draw_inclusion": lambda: (
        reports.draw_inclusion,
        {"probabilities": half(3), "path": "a.png", "names": ["a", "b", "c"], "truth": None, "errors": None},
    ),
    "draw_interactions": lambda: (
        reports.draw_interactions,
        {"shares": torch.eye(2), "path": "a.png", "names": ["a", "b"], "title": "t"},
    ),
    "draw_probabilities": lambda: (
        reports.draw_probabilities,
        {"thetas": {"a": half(4)}, "path": "a.png", "title": "t", "inputs": None},
    ),
    "draw_reliability": lambda: (
        reports.draw_reliability,
        {"calibration": metrics.calibration(half(4, 2), torch.tensor([0, 1, 0, 1])), "path": "a.png"},
    ),
    "gate_table": lambda: (
        reports.gate_table,
        {"summaries": reports.summarize({"a": half(3)}, {"a": torch.arange(3)}), "title": "t"},
    ),
    "write_report": lambda: (
        reports.write_report,
        {
            "runs": [reports.RunReport(name="a", history=History([EpochRow(1, "a", *[1.0] * 4, 1, 1.0, 1, 1, 1.0)]))],
            "path": "a.html",
        },
    ),
    "reports.summarize": lambda: (reports.summarize, {"thetas": {"a": half(3)}, "survivors": {"a": torch.arange(3)}}),
    "BayesPruneClassifier": lambda: (
        lambda **given: made("BayesPruneClassifier", **given),
        {
            **{"hidden_layer_sizes": (4,), "slab": "normal", "temperature": 0.1, "prior_inclusion": 0.5},
            **{"batch_size": "auto", "learning_rate": 0.01, "num_samples": 4, "random_state": 0, "ordered": True},
            **{"groups": [[0, 1]]},
            **{"restarts": 1},
        },
    ),
}
