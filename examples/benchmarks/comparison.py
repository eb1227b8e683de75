"""Tables of the image benchmark: each pipeline against dense and peer, and one network of several depths."""

from __future__ import annotations

from statistics import mean

from report import table
from running import Row

MEASURES = ("macs", "params", "layers", "first_seconds", "last_seconds", "seconds", "cpu_seconds", "peak")
"""What is compared as a ratio; accuracy is compared as a difference."""


def against(row: Row, other: Row) -> dict[str, float | None]:
    """``row`` relative to ``other``: a difference of accuracy, in points, and ratios of the rest."""
    pairs = {name: (getattr(row, name), getattr(other, name)) for name in MEASURES}
    points = {"accuracy points": 100 * (row.accuracy - other.accuracy)}
    return points | {name: a / b if a and b else None for name, (a, b) in pairs.items()}


def depth_into_time(row: Row, dense: Row) -> dict[int, float]:
    """By batch size, the relative latency over the relative multiply-adds: 1 if time falls as the counted work does."""
    return {size: pair.ratio / (row.macs / dense.macs) for size, pair in row.latency.items()}


def comparisons(rows: list[Row]) -> list[dict]:
    """For every row: its net, seed and pipeline, and how it compares with the dense and the peer row of its seed."""
    found = {(row.net, row.seed, row.pipeline): row for row in rows}
    result = []
    for (net, seed, name), row in found.items():
        entry: dict = {"net": net, "seed": seed, "pipeline": name}
        for other in ("dense", "peer"):
            if (net, seed, other) in found:
                entry[f"to {other}"] = against(row, found[net, seed, other])
        if (net, seed, "dense") in found:
            entry["latency over multiply-adds"] = depth_into_time(row, found[net, seed, "dense"])
        result.append(entry)
    return result


def pipelines_table(rows: list[Row]) -> str:
    """One line a pipeline and seed; percentages and "×" are relative to the dense line of the same seed."""
    dense = {row.seed: row for row in rows if row.pipeline == "dense"}
    peers = {row.seed: row for row in rows if row.pipeline == "peer"}
    sizes = sorted(rows[0].latency)
    header = ["pipeline", "seed", "accuracy %", "multiply-adds", "parameters", "layers", "branches"]
    header += ["first epochs s", "last epochs s", "total s", "of the CPU s", "× dense", "× peer", "peak MiB"]
    header += [f"latency of batch {size} (over multiply-adds)" for size in sizes]
    lines = []
    for row in rows:
        whole = dense.get(row.seed)
        line = [row.pipeline, str(row.seed), f"{100 * row.accuracy:.2f}"]
        line += [_share(row.macs, whole and whole.macs), _share(row.params, whole and whole.params)]
        line += [
            str(row.layers),
            f"{row.branches[0]} of {row.branches[1]}",
            f"{row.first_seconds:.2f}",
            f"{row.last_seconds:.2f}",
        ]
        line += [f"{row.seconds:.1f}", "–" if row.cpu_seconds is None else f"{row.cpu_seconds:.1f}"]
        line += [_times(row, whole), _times(row, peers.get(row.seed))]
        line += ["not measured" if row.peak is None else f"{row.peak / 2**20:.0f}"]
        over = {} if whole is None else depth_into_time(row, whole)
        shares = {size: f" ({over[size]:.2f})" if over else "" for size in sizes}
        lines.append([*line, *(f"{row.latency[size].ratio:.2f}{shares[size]}" for size in sizes)])
    return table(header, lines)


def depths_table(rows: list[Row]) -> str:
    """One line a starting depth and seed, all of the gated pipeline, and one for the mean of each depth."""
    header = [
        "start",
        "seed",
        "accuracy %",
        "multiply-adds M",
        "parameters",
        "branches",
        "layers",
        "converged",
        "total s",
    ]
    lines = []
    for net in dict.fromkeys(row.net for row in rows):
        here = [row for row in rows if row.net == net]
        for row in here:
            line = [net, str(row.seed), f"{100 * row.accuracy:.2f}", f"{row.macs / 1e6:.2f}", str(row.params)]
            line += [f"{row.branches[0]} of {row.branches[1]}", str(row.layers), f"{100 * (row.converged or 0):.1f} %"]
            lines.append([*line, f"{row.seconds:.0f}"])
        line = [f"**{net}, mean**", "", f"{100 * mean(row.accuracy for row in here):.2f}"]
        line += [f"{mean(row.macs for row in here) / 1e6:.2f}", f"{mean(row.params for row in here):.0f}"]
        line += [f"{mean(row.branches[0] for row in here):.1f}", f"{mean(row.layers for row in here):.1f}"]
        line += [f"{100 * mean(row.converged or 0 for row in here):.1f} %"]
        lines.append([*line, f"{mean(row.seconds for row in here):.0f}"])
    return table(header, lines)


def _share(value: int, whole: int | None) -> str:
    return str(value) if whole is None else f"{value} ({100 * value / whole:.1f} %)"


def _times(row: Row, other: Row | None) -> str:
    """The time of one row over another's, the processor's where it was measured of both."""
    if other is None:
        return "–"
    if None not in (row.cpu_seconds, other.cpu_seconds):
        return f"{row.cpu_seconds / other.cpu_seconds:.2f}"
    return f"{row.seconds / other.seconds:.2f}"
