"""Fill the tables of the docs from the committed results, and draw the figures.

``docs/benchmarks.md`` and ``docs/scaling.md`` have a comment before each table with its
name and one after it. What is between is replaced. The figures go to ``docs/images``.
Each holds a fingerprint of the file that it was drawn from, which a test compares.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import _figures
import gauntlet
import speed
import whole_fit
from fidelity import read_results
from gauntlet import as_markdown

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).with_name("results")
IMAGES = ROOT / "docs" / "images"
PAGES = [ROOT / "docs" / f"{name}.md" for name in ("benchmarks", "scaling")]
MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


# Tables.


def pivot(table, row, column, cell_of) -> str:
    """Return a table of one column of the results by another."""
    rows = list(dict.fromkeys(line[row] for line in table))
    columns = list(dict.fromkeys(line[column] for line in table))
    cells = {(line[row], line[column]): cell_of(line) for line in table}
    found = [[r, *(cells.get((r, c), "") for c in columns)] for r in rows]
    return as_markdown([row, *columns], found)


TASKS = {
    "digits symmetric": "20 % symmetric",
    "digits pair": "20 % pair flips",
    "digits symmetric, batch norm": "20 % symmetric, BatchNorm",
    "digits pair, batch norm": "20 % pair flips, BatchNorm",
    "digits clean": "clean",
    "digits clean, batch norm": "clean, BatchNorm",
    "denoising gamma": "15 % wrong gamma, DnCNN",
}
"""Headings by the names of the tasks."""


def fidelity_lines(value: str) -> _figures.Table:
    """Return the lines of all tasks that have a value, in the order of the lines."""
    results = json.loads((RESULTS / "fidelity.json").read_text())
    found = [
        line | {"task": heading, "scores": line["method"]}
        for task, heading in TASKS.items()
        for line in results[task]["lines"]
        if value in line
    ]
    order = list(dict.fromkeys(line["scores"] for line in found))
    return sorted(found, key=lambda line: order.index(line["scores"]))


def datamodeling_table() -> str:
    lines = fidelity_lines("lds")
    results = json.loads((RESULTS / "fidelity.json").read_text())
    for key, name in [
        ("seed to seed", "the objective itself, one seed against another"),
        ("ceiling", "the most that any score could reach"),
    ]:
        lines += [
            {"scores": name, "task": heading, "lds": results[task][key]}
            for task, heading in TASKS.items()
        ]
    return pivot(lines, "scores", "task", datamodeling_cell)


def datamodeling_cell(line) -> str:
    _, held_out, clean_test = line["lds"]
    error = line.get("lds standard error")
    spread = "" if error is None else f" ± {error[1]:.2f}"
    return f"{held_out:.2f}{spread} ({clean_test:.2f})"


def above_ekfac_table() -> str:
    """Return how much each of our lines is above EK-FAC at the last epoch."""
    lines = [
        line
        for line in fidelity_lines("lds above EK-FAC")
        if line["scores"].startswith("sk_datadrop")
    ]
    return pivot(
        lines,
        "scores",
        "task",
        lambda line: (
            f"{line['lds above EK-FAC'][1]:+.2f} ± {line['its standard error'][1]:.2f}"
        ),
    )


def detection_table() -> str:
    return pivot(
        fidelity_lines("auc"),
        "scores",
        "task",
        lambda line: f"{line['auc']:.3f}, {line['precision']:.2f}",
    )


def leave_one_out_table() -> str:
    results = json.loads((RESULTS / "leave_one_out.json").read_text())
    rows: dict[str, list[str]] = {}
    for name, line in results["leave-one-out"]["lines"].items():
        problem, what = name.split(": ")
        problem, solver = problem.rsplit(", ", 1)
        if solver == "Dense":
            digits = 4 if what == "removal" else 6
            figures = [f"{line['pearson']:.{digits}f}", f"{line['slope']:.3f}"]
            rows.setdefault(problem, [problem]).extend(figures)
    header = ["model and objective", "removed: r", "slope"]
    header += ["a thousandth removed: r", "slope"]
    return as_markdown(header, list(rows.values()))


GPU_COLUMNS = {
    "epoch of training": "epoch of training",
    "forward pass": "forward pass",
    "sk_datadrop": "ours",
    "sk_datadrop, bfloat16": "ours, bfloat16",
    "gradients by vmap": "gradients by vmap",
    "captum": "captum",
    "kronfluence": "kronfluence",
}


def gpu_table() -> str:
    (device,) = json.loads((RESULTS / "gpu.json").read_text()).values()
    rows = []
    for name, lines in device["lines"].items():
        net, n_rows = name.removesuffix(" rows").rsplit(", ", 1)
        cells = [gpu_cell(lines.get(method)) for method in GPU_COLUMNS.values()]
        cells.insert(3, f"{lines['ours']['bytes'] / 1e9:.0f}")
        rows.append([net, f"{int(n_rows):,}", *cells])
    columns = list(GPU_COLUMNS)
    columns.insert(3, "GB at the peak")
    return as_markdown(["net", "samples", *columns], rows)


def gpu_cell(line) -> str:
    if line is None:
        return "not run"
    if "seconds" not in line:
        return "fails"
    seconds = line["seconds"]
    return f"{seconds:.2f}" if seconds < 10 else f"{seconds:.3g}"


def large_table() -> str:
    results = json.loads((RESULTS / "large.json").read_text())
    rows = []
    for name, line in {
        **results["killed, started again"],
        "never killed": results["never killed"],
        "plain training": results["plain training"],
    }.items():
        if not isinstance(line, dict):
            continue
        before = line["private bytes before the fit"]
        sizes = [before, line["private bytes at the peak"] - before]
        sizes.append(line["file bytes at the peak"])
        found = [line.get(what) for what in ("precision", "recall", "accuracy")]
        rows.append(
            [name, f"{line['seconds']:.0f} s", str(len(line["trainings begun"]))]
            + [f"{size / 1e6:,.0f} MB" for size in sizes]
            + ["-" if value is None else f"{value:.3f}" for value in found]
        )
    header = ["process", "time", "trainings begun", "private memory before the fit"]
    header += ["growth to its peak", "pages of files", "precision", "recall"]
    return as_markdown([*header, "accuracy"], rows)


def dask_table() -> str:
    results = json.loads((RESULTS / "dask.json").read_text())
    rows = []
    for name in ("one process", "nobody killed", "one killed", "all killed"):
        line = results[name]
        sizes = line.get("bytes written", {}).values()
        is_same = line.get("same as in one process")
        rows.append(
            [name, f"{line['seconds']:.0f} s"]
            + ([f"{size / 1e6:.0f} MB" for size in sizes] or ["-", "-"])
            + ["-" if is_same is None else "yes" if is_same else "no"]
        )
    header = ["fit", "time", "client and scheduler wrote", "workers wrote"]
    return as_markdown([*header, "same as in one process"], rows)


def tables() -> dict[str, str]:
    """Return every table by the name that its page has for it."""
    results = gauntlet.read_results(gauntlet.RESULTS)
    found = {name: text for name, (_, text) in gauntlet.tables(results).items()}
    return found | {
        "leave_one_out": leave_one_out_table(),
        "datamodeling": datamodeling_table(),
        "above_ekfac": above_ekfac_table(),
        "detection": detection_table(),
        "gpu": gpu_table(),
        **speed.tables(read_results(speed.RESULTS)),
        **whole_fit.tables(
            read_results(whole_fit.FITS), read_results(whole_fit.WORKERS)
        ),
        "large": large_table(),
        "dask": dask_table(),
    }


def filled(page: str, texts: dict[str, str]) -> str:
    """Return the page with its tables replaced."""
    return MARKED.sub(lambda found: f"{found[1]}\n{texts[found[2]]}\n{found[3]}", page)


# Figures.


def source_of(name: str) -> Path:
    """Return the file that a figure is drawn from."""
    if name in _figures.FROM_FIDELITY:
        return RESULTS / "fidelity.json"
    return speed.RESULTS if name == "speed" else gauntlet.RESULTS


def fingerprint(path: Path) -> str:
    return f"{path.name} sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def content_of(name: str) -> Any:
    """Return what a figure is drawn from."""
    if name in _figures.FROM_FIDELITY:
        return fidelity_lines(_figures.FIDELITY_VALUES[name])
    if name == "speed":
        return read_results(speed.RESULTS)
    return gauntlet.read_results(gauntlet.RESULTS)


def draw_all(folder: Path) -> None:
    figures = _figures.GAUNTLET | _figures.FROM_FIDELITY | {"speed": _figures.speed}
    for name, panels_of in figures.items():
        path, is_beside = folder / f"{name}.svg", name in _figures.BESIDE
        panels = panels_of(content_of(name))
        source = fingerprint(source_of(name))
        _figures.forest(panels, path, source, is_beside=is_beside)
    results, source = content_of("reliability"), fingerprint(gauntlet.RESULTS)
    _figures.reliability(results, folder / "reliability.svg", source)


def main() -> None:
    texts = tables()
    for page in PAGES:
        page.write_text(filled(page.read_text(), texts))
    draw_all(IMAGES)


if __name__ == "__main__":
    main()
