"""Forest plots of the results: a row per cell or method, a point with its interval.

All are as wide as a page on a screen, with letters that are still readable on a phone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gauntlet
import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from speed import PASSES, of_part, seconds_of

WIDTH = 5.6
"""Inches: 538 pixels on a screen; on one of 420 pixels it shrinks by a quarter."""
FONT_SIZE = 11.5
ROW, AROUND = 0.25, 0.62
"""Inches of height for a row, and for an axis and its label."""

BLUE, ORANGE, GREY = "tab:blue", "tab:orange", "0.45"

Intervals = Mapping[str, tuple[float, float, float]]
"""Mean, and the ends of its interval, by row; the ends are NaN where there is none."""


@dataclass(frozen=True)
class Series:
    """Points of one kind."""

    label: str
    points: Intervals
    color: str = BLUE
    marker: str = "o"
    hollow: bool = False
    lane: int = 0
    """From top to bottom within a row."""


@dataclass(frozen=True)
class Panel:
    """An axis with its rows, in groups."""

    groups: Mapping[str, list[str]]
    series: list[Series]
    xlabel: str
    limits: tuple[float, float]
    lines: tuple[float, ...] = (0.0,)
    percent: str = ""
    """Unit of the ticks."""
    is_log: bool = False
    names: Mapping[str, str] = field(default_factory=dict)
    """How rows are called, where that differs."""

    @property
    def rows(self) -> list[tuple[str, bool]]:
        """Names from top to bottom, and whether each is the heading of a group."""
        found = []
        for heading, names in self.groups.items():
            found += [(heading, True)] if heading else []
            found += [(name, False) for name in names]
        return found

    @property
    def n_lanes(self) -> int:
        return 1 + max(series.lane for series in self.series)

    @property
    def height(self) -> float:
        return AROUND + len(self.rows) * (ROW if self.n_lanes < 3 else 1.25 * ROW)


def forest(
    panels: list[Panel], path: Path, source: str, *, is_beside: bool = False
) -> None:
    """Draw panels below or beside each other and save them, with a fingerprint.

    Panels that are beside each other have the rows of the first.
    """
    if is_beside:
        panels = [replace(panel, groups=panels[0].groups) for panel in panels]
    heights = [panel.height for panel in panels]
    handles: dict = {}
    with rc_context(STYLE):
        size = WIDTH, max(heights) if is_beside else sum(heights)
        figure = Figure(figsize=size, layout="constrained")
        figure.get_layout_engine().set(w_pad=0.08, h_pad=0.06)
        if is_beside:
            all_axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)
        else:
            all_axes = figure.subplots(
                len(panels), 1, squeeze=False, height_ratios=heights
            )
        for axes, panel in zip(all_axes.flat, panels, strict=True):
            draw(axes, panel)
            found, labels = axes.get_legend_handles_labels()
            handles |= dict(zip(labels, found, strict=True))
        add_legend(figure, handles)
        save(figure, path, source)


STYLE = {"font.size": FONT_SIZE, "svg.hashsalt": "sk_datadrop"}


def add_legend(figure, handles) -> None:
    """Make room above the axes, for two names a line."""
    if len(handles) < 2:
        return
    figure.set_figheight(figure.get_figheight() + 0.25 * ((len(handles) + 1) // 2))
    figure.legend(
        handles.values(),
        handles,
        loc="outside upper center",
        ncols=2,
        frameon=False,
        columnspacing=1.2,
        handletextpad=0.3,
    )


def save(figure, path: Path, source: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None, "Source": source})


def draw(axes, panel: Panel) -> None:
    rows = panel.rows
    places = {name: -place for place, (name, head) in enumerate(rows) if not head}
    for line in panel.lines:
        axes.axvline(line, color="0.6", linewidth=1, zorder=0)
    offsets = np.linspace(0.22, -0.22, panel.n_lanes) * (panel.n_lanes > 1)
    for series in panel.series:
        draw_series(axes, series, places, offsets[series.lane], panel.limits)
    if panel.is_log:
        axes.set_xscale("log")
    axes.set_xlim(panel.limits)
    axes.set_ylim(-len(rows) + 0.4, 0.6)
    axes.set_yticks(
        [-place for place in range(len(rows))],
        [panel.names.get(name, name) for name, _ in rows],
    )
    for label, (_, head) in zip(axes.get_yticklabels(), rows, strict=False):
        if head:
            label.set_fontweight("bold")
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}{panel.percent}")
    axes.xaxis.set_minor_formatter(lambda value, _: "")
    axes.set_xlabel(panel.xlabel, loc="right")
    for place, (_, head) in enumerate(rows):
        if not head:
            axes.axhline(-place, color="0.93", linewidth=1, zorder=-1)
    axes.spines[["top", "right", "left"]].set_visible(False)


def draw_series(axes, series: Series, places, offset, limits) -> None:
    """Draw the points; one that lies outside is an arrow at the edge."""
    low, high = limits
    label = series.label
    style = {"markeredgecolor": series.color, "markersize": 6, "clip_on": False}
    for name, (mean, start, end) in series.points.items():
        if name not in places or np.isnan(mean):
            continue
        y = places[name] + offset
        if start < end:
            ends = np.clip([start, end], low, high)
            axes.plot(ends, [y, y], color=series.color, linewidth=1.4, zorder=2)
        outside = "<" if mean < low else ">" if mean > high else ""
        face = "white" if series.hollow else series.color
        axes.plot(
            np.clip(mean, low, high),
            y,
            outside or series.marker,
            label=label,
            markerfacecolor=face,
            zorder=3,
            **style,
        )
        label = "_"


# The gauntlet.

KINDS = {
    "Images": ("MNIST", "digits", "30 classes"),
    "Signals": ("MNIST-1D",),
    "Tables, classes": (
        "wine",
        "cuts of diamonds",
        "breast cancer",
        "breast cancer unscaled",
        "overlapping classes",
    ),
    "Tables, numbers": ("Friedman", "diabetes", "diamonds"),
    "Pairs of images": ("photographs",),
}
"""Data of the cells by their kind."""
SPARED = (", MNIST-1D", ", MNIST", ", photographs")
"""Parts of names that the heading of a group says already."""


def kind_of(cell: str) -> str:
    data = cell.split(", ")[1] if ", " in cell else ""
    return next((kind for kind, names in KINDS.items() if data in names), "Others")


def short(cell: str) -> str:
    for part in SPARED:
        cell = cell.replace(part, "")
    return cell.replace("memorising", "memoris.").replace("symmetric", "symm.")


def grouped(order: Mapping[str, float]) -> dict[str, list[str]]:
    """Cells by kind of data, those of the largest value first."""
    cells = sorted(order, key=order.get, reverse=True)
    kinds = [*KINDS, "Others"]
    groups = {kind: [c for c in cells if kind_of(c) == kind] for kind in kinds}
    return {kind: cells for kind, cells in groups.items() if cells}


def with_ends(mean, half) -> tuple[float, float, float]:
    return mean, mean - half, mean + half


def saved(results, method, than="none") -> Intervals:
    """Loss that a method saves, in percent of the loss of none."""
    found = {
        cell: with_ends(*gauntlet.percent_of_none(methods, than, method))
        for cell, methods in results.items()
    }
    return {cell: point for cell, point in found.items() if not np.isnan(point[0])}


def order_of(points: Intervals) -> dict[str, float]:
    return {row: point[0] for row, point in points.items()}


def cell_panel(series, xlabel, limits, **options) -> Panel:
    """Rows are the cells of the first series."""
    groups = grouped(order_of(series[0].points))
    names = {cell: short(cell) for cells in groups.values() for cell in cells}
    return Panel(groups, series, xlabel, limits, names=names, **options)


NOT_DRAWN = ("oracle, as many steps", "data dropout, fewer steps")


def mean_gap(results) -> list[Panel]:
    """Mean share of the gap closed by each method, and by ours on the same cells."""
    ours = gauntlet.shares(results, gauntlet.OURS)
    points, same, names = {}, {}, {}
    for method in gauntlet.answered(results):
        found = gauntlet.shares(results, method)
        if method in (*gauntlet.ENDS, *NOT_DRAWN) or len(found) < 2:
            continue
        points[method] = share_interval(found.values())
        names[method] = f"{method} ({len(found)})"
        if not method.startswith(gauntlet.OURS):
            mean, *_ = share_interval([ours[cell] for cell in found if cell in ours])
            same[method] = mean, np.nan, np.nan
    order = sorted(points, key=order_of(points).get, reverse=True)
    series = [
        Series("data dropout", {m: p for m, p in points.items() if m not in same}),
        Series("other methods", {m: points[m] for m in same}, ORANGE, "s"),
        Series("data dropout, the same ones", same, hollow=True, lane=1),
    ]
    label = "gap closed (combinations in brackets)"
    return [Panel({"": order}, series, label, (-100, 115), (0, 100), " %", names=names)]


def share_interval(shares) -> tuple[float, float, float]:
    """Mean over cells, none of which can decide it alone, with its interval."""
    bounds = gauntlet.SMALLEST_SHARE, gauntlet.LARGEST_SHARE
    return with_ends(*gauntlet.interval(100 * np.clip(list(shares), *bounds)))


def gain(results) -> list[Panel]:
    """Loss saved over no dropout, by cell."""
    results = gauntlet.damaged(results)
    oracle = {c: (m, np.nan, np.nan) for c, (m, *_) in saved(results, "oracle").items()}
    series = [
        Series("data dropout", saved(results, gauntlet.OURS)),
        Series("cleanlab", saved(results, "cleanlab"), ORANGE, "s", lane=1),
        Series("oracle", oracle, GREY, "d", hollow=True, lane=2),
    ]
    return [cell_panel(series, "test loss saved, % of none's", (-60, 120))]


def difference(results) -> list[Panel]:
    """Loss saved over cleanlab, by cell."""
    points = saved(results, gauntlet.OURS, "cleanlab")
    series = [Series("data dropout over cleanlab", points)]
    return [cell_panel(series, "test loss saved, % of none's", (-60, 120))]


LEADING = {
    "data dropout": {"color": BLUE, "marker": "o"},
    "cleanlab": {"color": ORANGE, "marker": "s", "lane": 1},
}
SCORES = {
    "accuracy gained, points": (100, (-10, 25)),
    "R2 gained": (1, (-0.2, 0.8)),
    "PSNR gained, dB": (1, (-2, 8)),
}
"""Factor and limits of each score."""


def score(results) -> list[Panel]:
    """Score gained over no dropout, by cell, with a panel for each unit."""
    parts: dict[str, dict] = {unit: {} for unit in SCORES}
    for cell, methods in gauntlet.damaged(results).items():
        kind = kind_of(cell)
        is_number, is_image = kind == "Tables, numbers", kind == "Pairs of images"
        parts[list(SCORES)[is_number + 2 * is_image]][cell] = methods
    panels = []
    for unit, (scale, limits) in SCORES.items():
        series = []
        for method, style in LEADING.items():
            points = {
                cell: with_ends(
                    *gauntlet.paired_interval(methods, method, "none", "score", scale)
                )
                for cell, methods in parts[unit].items()
            }
            series.append(Series(method, points, **style))
        if parts[unit]:
            panels.append(cell_panel(series, unit, limits))
    return panels


def over_seeds(results, method, name) -> Intervals:
    """Mean of a share over the seeds, and the lowest and the highest, in percent."""
    found = {}
    for cell, methods in results.items():
        lines = methods.get(method, {}).values()
        values = [100 * line[name] for line in lines if line[name] is not None]
        if values:
            found[cell] = float(np.mean(values)), min(values), max(values)
    return found


def shares_of(results, name) -> list[Series]:
    return [
        Series(method, over_seeds(results, method, name), **style)
        for method, style in LEADING.items()
    ]


def dropped(results) -> list[Panel]:
    """Share of the wrong samples that are found, and share of right samples dropped."""
    results = gauntlet.damaged(results)
    found, lost = (shares_of(results, name) for name in ("recall", "clean_dropped"))
    return [
        cell_panel(found, "wrong samples\nfound", (0, 100), percent=" %"),
        cell_panel(lost, "right samples\ndropped", (0, 40), percent=" %"),
    ]


def clean(results) -> list[Panel]:
    """Share dropped and loss added on clean cells."""
    results = gauntlet.undamaged(results)
    losses = []
    for method, style in LEADING.items():
        added = {
            cell: (-mean, -end, -start)
            for cell, (mean, start, end) in saved(results, method).items()
        }
        losses.append(Series(method, added, **style))
    shares = shares_of(results, "clean_dropped")
    return [
        cell_panel(shares, "samples\ndropped", (0, 25), percent=" %"),
        cell_panel(losses, "test loss added,\n% of none's", (-60, 120)),
    ]


def cost(results) -> list[Panel]:
    """Median number of trainings, with the lowest and the highest cell and seed."""
    points = {}
    for method in gauntlet.answered(results):
        trainings = [
            line["trainings"]
            for methods in results.values()
            for line in methods.get(method, {}).values()
        ]
        points[method] = float(np.median(trainings)), min(trainings), max(trainings)
    order = sorted(points, key=order_of(points).get)
    label = "plain trainings, the last one included"
    return [
        Panel({"": order}, [Series("", points)], label, (0.5, 100), (1,), is_log=True)
    ]


def reliability(results, path: Path, source: str) -> None:
    """Draw how many samples of about the same chance of harm were wrong."""
    with rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, WIDTH), layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color="0.6", linewidth=1)
        for (label, tables), marker in zip(
            reliability_tables(results).items(), "os", strict=True
        ):
            n, n_wrong, total = np.sum(tables, axis=0).T
            filled = n > 0
            n, n_wrong, total = n[filled], n_wrong[filled], total[filled]
            share = n_wrong / n
            error = 1.96 * np.sqrt(share * (1 - share) / n)
            axes.errorbar(
                total / n, share, error, marker=marker, label=label, capsize=2
            )
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axes.set(xlabel="chance of harm, mean", ylabel="share that was wrong")
        axes.legend(frameon=False)
        save(figure, path, source)


def reliability_tables(results) -> dict[str, list]:
    """Counts by tenth of the chance, of all cells and seeds, by kind of target."""
    kinds: dict[str, list] = {"class labels": [], "numbers and images": []}
    for methods in results.values():
        for line in methods.get(gauntlet.OURS, {}).values():
            name = list(kinds)[line["is_regression"]]
            kinds[name].append(line["reliability"])
    return {kind: tables for kind, tables in kinds.items() if tables}


GAUNTLET = {
    "mean_gap": mean_gap,
    "gain": gain,
    "difference": difference,
    "score": score,
    "dropped": dropped,
    "cost": cost,
    "clean": clean,
}
BESIDE = ("dropped", "clean")
"""Figures whose panels share their rows."""


# Fidelity and speed: a row per method below the heading of a task or a net.

Table = list[dict[str, Any]]


def panel_by(table: Table, heading, name, value, **options) -> Panel:
    """Rows with our scores and those of others, in the order of the table."""
    groups: dict[str, list[str]] = {}
    points, names = {}, {}
    for line in table:
        if not line[value]:
            continue
        row = f"{line[heading]}: {line[name]}"
        groups.setdefault(line[heading], []).append(row)
        mean, half = float(line[value]), line.get("error", np.nan)
        points[row] = mean, mean - half, mean + half
        names[row] = line[name]
    ours = {row: p for row, p in points.items() if is_ours(names[row])}
    theirs = {row: p for row, p in points.items() if row not in ours}
    series = [
        Series("sk_datadrop", ours),
        Series("other scores", theirs, ORANGE, "s"),
    ]
    return Panel(groups, series, names=names, **options)


def is_ours(name: str) -> bool:
    return name.startswith("sk_datadrop")


DRAWN = (
    "sk_datadrop, best epoch",
    "sk_datadrop, three epochs",
    "kronfluence EK-FAC, last epoch",
    "kronfluence EK-FAC, best epoch",
    "captum TracInCP, three epochs",
    "dattri CG, last epoch",
    "cleanlab, last epoch",
    "highest loss, best epoch",
)
"""Scores that the figures show; the tables have more."""


def drawn(lines: Table) -> Table:
    """Return the lines to draw, task by task."""
    found = [line for line in lines if line["scores"] in DRAWN]
    tasks = list(dict.fromkeys(line["task"] for line in found))
    return sorted(found, key=lambda line: tasks.index(line["task"]))


def datamodeling(lines: Table) -> list[Panel]:
    """Linear datamodeling scores on the held-out samples, with standard errors."""
    options = {"xlabel": "linear datamodeling score", "limits": (-0.1, 1)}
    lines = [
        line | {"held_out": line["lds"][1], "error": line["lds standard error"][1]}
        for line in drawn(lines)
    ]
    return [panel_by(lines, "task", "scores", "held_out", **options)]


def detection(lines: Table) -> list[Panel]:
    """Area under the ROC curve for telling wrong samples."""
    options = {"xlabel": "area under the ROC curve", "limits": (0.5, 1), "lines": ()}
    return [panel_by(drawn(lines), "task", "scores", "auc", **options)]


FROM_FIDELITY = {"datamodeling": datamodeling, "detection": detection}
FIDELITY_VALUES = {"datamodeling": "lds", "detection": "auc"}
"""The value that lines have if they are drawn."""


def speed(results) -> list[Panel]:
    """Seconds for one score per sample; an arrow for those that took too long."""
    table = [
        {"net": net, "method": method, "seconds": str(seconds)}
        for net, result in of_part(results, "nets").items()
        for method, seconds in seconds_of_methods(result).items()
    ]
    options = {"xlabel": "seconds", "limits": (0.1, 100), "is_log": True, "lines": ()}
    return [panel_by(table, "net", "method", "seconds", **options)]


def seconds_of_methods(result) -> dict[str, float]:
    """Return the seconds of each method that scores; infinity for those cut off."""
    found = {}
    for method, line in result["lines"].items():
        is_cut_off = line["note"].startswith("more than")
        if method not in PASSES and (is_cut_off or not line["note"]):
            found[method] = np.inf if is_cut_off else seconds_of(result, method)
    return found
