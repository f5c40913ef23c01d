"""Results of a fit as one HTML page that needs neither server nor network."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sk_datadrop._lazy import LazyTargets, with_own_targets
from sk_datadrop._pictures import pictures_of
from sk_datadrop._report import (
    check_findings,
    check_support,
    labels_of_classes,
    names_of_classes,
    tabulate,
)
from sk_datadrop._safeguards import HARMFUL
from sk_datadrop._samples import by_position
from sk_datadrop._thumbnails import LINE_HEIGHT, LINE_WIDTH, thumbnail

MOST_ROWS = 10_000
"""Rows of the table, which browsers sort and filter at once."""

MOST_CLASSES_IN_A_MATRIX = 20
MOST_PAIRS = 30
"""Beyond that many classes a list of pairs is read more easily."""

LABELS = {"target": "given", "prediction": "predicted", "suggested": "suggested"}
"""Columns of the report that hold targets, as the page calls them."""


def influence_html(
    estimator: Any,
    X: Any,
    y: Any = None,
    *,
    path: Any = None,
    max_samples: int = 200,
    title: str | None = None,
) -> Any:
    """Write the results of a fit as one HTML page to look at, send and keep.

    The page shows a summary line, the warnings, the share dropped of each class, the
    classes that are confused, and a table of the samples with pictures, most likely
    harmful first. Readers can sort and filter the table. The page loads nothing from
    elsewhere, and text from the data is shown as text, never run as HTML.

    Parameters
    ----------
    estimator : DataDropoutClassifier, DataDropoutRegressor, DataDropoutTransformer \
            or DataDropoutSampler
        Fitted.
    X, y : array-like of shape (n_samples, ...), Dataset or None
        Samples it was fitted on, in the same order, and their targets. None uses the
        targets of a data set X.
    path : str, os.PathLike or None, default=None
        File to write, in UTF-8. None returns the page instead.
    max_samples : int, default=200
        Number of samples shown with a picture. Each takes about 1 kB, or 10 kB if
        images are large and in colour. The table goes on without pictures, up to 10,000
        samples in total.
    title : str or None, default=None
        Heading. None uses the name of the estimator.

    Returns
    -------
    str or pathlib.Path
        The HTML text, or the path of the file that was written.

    Raises
    ------
    ImportError
        If pandas or jinja2 is not installed.
    ValueError
        If `max_samples` is negative.

    See Also
    --------
    influence_report : The same as a DataFrame.
    InfluenceDisplay : Draws figures with matplotlib.

    Examples
    --------
    >>> from sklearn.datasets import make_regression
    >>> from skorch import NeuralNetRegressor
    >>> from torch.nn import LazyLinear
    >>> from sk_datadrop import DataDropoutRegressor, influence_html
    >>> X, y = make_regression(200, 3, random_state=0)
    >>> y[:20] += 500
    >>> net = NeuralNetRegressor(LazyLinear, module__out_features=1, lr=0.1)
    >>> model = DataDropoutRegressor(net, cv=3, random_state=0).fit(X, y)
    >>> page = influence_html(model, X, y)
    >>> "Dropped 20 of 200 samples" in page
    True
    """
    check_support("influence_html", "pandas", "jinja2")
    check_findings("influence_html", estimator)
    if max_samples < 0:
        raise ValueError(f"max_samples must be 0 or more; got {max_samples}.")
    names = names_of_classes(estimator, X, y)
    X, y = with_own_targets(X, y)
    report = tabulate(estimator, X, y, names)
    order = ["harm_probability", "influence"]
    worst = report.sort_values(order, ascending=[False, True]).head(MOST_ROWS)
    pictures = _thumbnails(estimator, X, y, worst["row"].to_numpy()[:max_samples])
    labels = labels_of_classes(estimator, names) if "target" in report else []
    verb, is_treated = _treated(estimator, report, y)
    page = _template().render(
        title=title or f"{type(estimator).__name__}: what was found",
        summary=estimator.summary_,
        warnings=estimator.warnings_,
        verb=verb,
        classes=_classes(report["target"], is_treated) if labels else [],
        confusion=_confusion(report, labels) if labels else None,
        columns=_columns(
            worst, pictures, labels, verb, is_treated[worst["row"].to_numpy()]
        ),
        n_rows=len(worst),
        n_samples=len(report),
        line_size=(LINE_WIDTH, LINE_HEIGHT),
    )
    if path is None:
        return page
    # Names of files may hold what UTF-8 cannot.
    Path(path).write_text(page, encoding="utf-8", errors="xmlcharrefreplace")
    return Path(path)


def _template() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("sk_datadrop", "_templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    return environment.get_template("report.html.jinja")


def _thumbnails(
    estimator: Any, X: Any, y: Any, numbers: np.ndarray
) -> dict[str, list[dict[str, Any]]]:
    """Return pictures of some samples: of the input and, if it is one, the target."""
    y = y if isinstance(y, LazyTargets) else np.asarray(y)
    if not len(numbers):
        return {}
    pictures = pictures_of(estimator, by_position(X), y, numbers, least_axes=2)
    names = getattr(estimator, "feature_names_in_", None)
    return {
        kind: [
            thumbnail(values, scale, names if kind == "input" else None)
            for values, scale in zip(
                drawn,
                pictures["given"] if kind == "predicted" else drawn,
                strict=True,
            )
        ]
        for kind, drawn in pictures.items()
    }


def _treated(estimator: Any, report: Any, y: Any) -> tuple[str, np.ndarray]:
    """Return what became of harmful samples, and which they are, (n_samples,)."""
    on_harmful = getattr(estimator, "on_harmful", "drop")
    if on_harmful == "weigh":
        return "weighed down", report["weight"].to_numpy() < 1 - HARMFUL
    if on_harmful == "mend":
        given, suggested = np.asarray(y), np.asarray(estimator.suggested_targets_)
        is_other = suggested != given.reshape(suggested.shape).astype(suggested.dtype)
        return "mended", is_other.reshape(len(is_other), -1).any(axis=1)
    return "dropped", ~report["kept"].to_numpy()


def _classes(target: Any, is_treated: np.ndarray) -> list[dict[str, Any]]:
    """Return how many of each class were dropped, or else treated, most first."""
    groups = target.groupby(target).agg("size")
    n_treated = target[is_treated].groupby(target[is_treated]).agg("size")
    rows = [
        {"name": str(name), "n": int(n), "n_treated": int(n_treated.get(name, 0))}
        for name, n in groups.items()
    ]
    return sorted(rows, key=lambda row: -row["n_treated"] / row["n"])


def _confusion(report: Any, labels: list[str]) -> dict[str, Any] | None:
    """Return how often classes given are suggested, or predicted, to be others."""
    other = "suggested" if "suggested" in report else "prediction"
    if other not in report:
        return None
    pairs = [report[name].astype(str) for name in ("target", other)]
    counts = report.groupby(pairs).size().sort_values(ascending=False, kind="stable")
    differing = [(*pair, n) for pair, n in counts.items() if pair[0] != pair[1]]
    is_matrix = len(labels) <= MOST_CLASSES_IN_A_MATRIX
    ordered = labels if is_matrix else []
    return {
        "verb": LABELS[other],
        "labels": ordered,
        "counts": [[counts.get((a, b), 0) for b in ordered] for a in ordered],
        "largest": differing[0][-1] if differing else 1,
        "pairs": differing[:MOST_PAIRS],
    }


def _columns(
    report: Any,
    pictures: dict[str, Any],
    labels: list[str],
    verb: str,
    is_treated: np.ndarray,
) -> list[dict[str, Any]]:
    """Return the columns of the table: heading, way of sorting, cells, and choices."""
    columns = [_column("sample", report.index)]
    if report.index.name == "file":
        # The folder is seen by pointing at the name.
        for cell in columns[0]["cells"]:
            cell["text"] = os.path.basename(cell["text"])
    for kind, drawn in pictures.items():
        missing = [None] * (len(report) - len(drawn))
        cells = [*drawn, *missing]
        columns.append({"name": kind, "kind": "picture", "cells": cells, "choices": ()})
    for name, title in LABELS.items():
        if name in report:
            values = report[name].astype(str) if labels else report[name]
            columns.append(_column(title, values, choices=labels))
    if "suggestion_probability" in report:
        chance = report["suggestion_probability"]
        columns.append(_column("chance that it is right", chance, "{:.2f}"))
    decision = np.where(is_treated, verb, "kept")
    return [
        *columns,
        _column("chance of harm", report["harm_probability"], "{:.2f}"),
        _column("influence", report["influence"], "{:.1e}"),
        _column("decision", decision, choices=[verb, "kept"]),
    ]


def _column(
    name: str, values: Any, form: str = "{:.4g}", choices: Sequence[str] = ()
) -> dict[str, Any]:
    is_number = values.dtype.kind in "iuf"
    return {
        "name": name,
        "kind": "number" if is_number else "text",
        "cells": [_cell(value, form) for value in values],
        "choices": choices,
    }


def _cell(value: Any, form: str) -> dict[str, str]:
    """Return what is shown, and what is sorted by and compared with."""
    if not isinstance(value, float | np.floating):
        return {"text": str(value), "value": str(value)}
    if np.isnan(value):
        return {"text": "not scored", "value": ""}
    return {"text": form.format(value), "value": f"{value:.6g}"}
