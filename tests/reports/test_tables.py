import io

import torch
from rich.console import Console
from rich.table import Table

from bayesprune.reports import gate_table, result_table, score_table, summarize


def rows(table: Table) -> list[list[str]]:
    """The table as it is printed: the cells of every line that is not empty."""
    out = io.StringIO()
    Console(file=out, width=120).print(table)
    lines = [line for line in out.getvalue().splitlines() if line.strip(" ─")]
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]


def test_gate_table_has_a_row_a_module_and_one_for_all():
    thetas = {"1": torch.tensor([1.0, 0.25, 0.0, 0.0]), "3": torch.zeros(2)}
    printed = rows(gate_table(summarize(thetas, {"1": torch.tensor([0, 1])}), "gates after epoch 7"))
    assert printed == [
        ["gates after epoch 7"],
        ["module", "gates at start", "left", "expected on", "converged", "lowest θ", "highest θ"],
        ["1", "4", "1", "1.2", "75.0 %", "0.250", "1.000"],
        ["3", "2", "0", "0.0", "100.0 %", "–", "–"],
        ["all", "6", "1", "1.2", "83.3 %", "0.250", "1.000"],
    ]


def test_long_names_of_modules_are_there_whole():
    name = "features.denseblock4.denselayer16.residual.body.conv1_gate"
    out = io.StringIO()
    Console(file=out, width=80).print(gate_table(summarize({name: torch.zeros(1024)}, {}), "gates"))
    printed = out.getvalue()
    assert "…" not in printed
    assert name in "".join(line.split()[0] for line in printed.splitlines() if line.strip())


def test_result_table_puts_the_compacted_network_next_to_the_start():
    result = {
        "accuracy": 0.9611,
        "nll": 0.12345,
        "brier": 0.06543,
        "ece": 0.01234,
        "params": 1000,
        "macs": 900,
        "dense_params": 50_000,
        "dense_macs": 45_000,
        "gates": 464,
        "gates_left": 116,
        "gates_converged": 0.998,
        "seconds": 12.34,
    }
    assert rows(result_table(result)) == [
        ["start", "compacted", "left"],
        ["gates", "464", "116", "25.0 %"],
        ["parameters", "50,000", "1,000", "2.0 %"],
        ["multiply-adds", "45,000", "900", "2.0 %"],
        ["test accuracy", "96.11 %"],
        ["test nll (nats)", "0.1235"],
        ["test Brier score", "0.0654"],
        ["test calibration error", "1.23 %"],
        ["gates converged", "99.8 %"],
        ["seconds", "12.3"],
    ]


def test_score_table_names_the_data():
    score = {"accuracy": 0.5, "nll": 1.0, "brier": 0.5, "ece": 0.25, "params": 12, "macs": 3456, "examples": 360}
    of_data = [
        ["test split of digits"],
        ["examples", "360"],
        ["accuracy", "50.00 %"],
        ["nll (nats)", "1.0000"],
        ["Brier score", "0.5000"],
        ["calibration error", "25.00 %"],
    ]
    of_network = [["parameters", "12"], ["multiply-adds", "3,456"]]
    assert rows(score_table({**score, "data": "digits"})) == of_data + of_network
    against = {**score, "data": "digits", "against": "noise", "auroc": 0.98765}
    assert rows(score_table(against)) == [*of_data, ["AUROC against noise", "0.9877"], *of_network]


POSTERIOR = {
    "posterior_samples": 32,
    "posterior_accuracy": 0.5125,
    "posterior_nll": 0.98765,
    "posterior_brier": 0.45678,
    "posterior_ece": 0.0321,
}
POSTERIOR_ROWS = [
    ["networks drawn", "32"],
    ["accuracy", "51.25 %"],
    ["nll (nats)", "0.9877"],
    ["Brier score", "0.4568"],
    ["calibration error", "3.21 %"],
]


def test_figures_of_a_posterior_follow_those_of_the_network():
    score = {"accuracy": 0.5, "nll": 1.0, "brier": 0.5, "ece": 0.25, "params": 12, "macs": 3456, "examples": 360}
    aurocs = {"against": "noise", "auroc": 0.9, "posterior_auroc": 0.95, "posterior_auroc_information": 0.97531}
    printed = rows(score_table({**score, **POSTERIOR, **aurocs, "data": "digits"}))
    assert printed[5:14] == [
        ["calibration error", "25.00 %"],
        *[[f"posterior {label}", figure] for label, figure in POSTERIOR_ROWS],
        ["AUROC against noise", "0.9000"],
        ["posterior AUROC against noise", "0.9500"],
        ["the same, mutual information", "0.9753"],
    ]


def test_result_table_has_the_posterior_s_figures():
    sizes = {f"{dense}{name}": 10 for dense in ("dense_", "") for name in ("params", "macs")}
    result = {"gates": 4, "gates_left": 2, "gates_converged": 1.0, "seconds": 1.0, **sizes, **POSTERIOR}
    printed = rows(result_table({**result, "accuracy": 0.5, "nll": 1.0, "brier": 0.5, "ece": 0.25}))
    expected = [[f"test posterior {label}", figure] for label, figure in POSTERIOR_ROWS]
    assert [row for row in printed if row[0].startswith("test posterior")] == expected
