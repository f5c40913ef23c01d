"""Inputs and captions of single samples, drawn on axes."""

from typing import Any

import numpy as np
from sklearn.utils import _safe_indexing

from sk_datadrop._samples import input_of

NAME_WIDTH = 18
"""Characters."""

ENDS = "most harmful", "most helpful"
MOST_COLUMNS = 4
"""Columns of a gallery; with more, captions are too small to read on a page."""

CAPTION_SIZE = 10
"""Points."""

INCHES_PER_CHARACTER = 0.09
INCHES_PER_LINE = 0.19
"""Size of captions."""

SMALLEST_WIDTH = 1.3
CONTRADICTED = "#c62828"
"""Colour of the caption of a sample whose label the net does not predict."""


def pictures_of(
    estimator: Any, X: Any, y: Any, numbers: np.ndarray, *, least_axes: int = 3
) -> dict[str, Any]:
    """Return inputs and, if they have as many axes, the targets given and predicted."""
    pictures: dict[str, Any] = {"input": [input_of(X, i) for i in numbers]}
    if y.ndim >= least_axes:
        pictures["given"] = [y[i] for i in numbers]
        if hasattr(estimator, "predict"):
            chosen = _safe_indexing(X, numbers)
            pictures["predicted"] = estimator.predict(chosen)
    return pictures


def caption(sample: Any) -> str:
    """Return what the report says of one sample, in up to three lines."""
    told = [
        f"{verb} {_short(sample[column])}"
        for column, verb in (("target", "given"), ("prediction", "predicted"))
        if column in sample
    ]
    return "\n".join([f"sample {sample['row']}", *told])


def _is_contradicted(estimator: Any, sample: Any) -> bool:
    """Return whether a sample has another class than the one predicted."""
    has_both = hasattr(estimator, "classes_") and "prediction" in sample
    return has_both and bool(sample["target"] != sample["prediction"])


def draw_values(ax: Any, values: np.ndarray, scale: np.ndarray) -> None:
    """Draw an image (C, H, W), a signal (C, L) or the columns of a table.

    Black and white of an image are the extremes of `scale`.
    """
    low, high = np.min(scale), np.max(scale)
    if values.ndim == 3 and len(values) in (3, 4):
        shown = (np.moveaxis(values, 0, -1) - low) / max(high - low, 1e-12)
        ax.imshow(np.clip(shown, 0, 1))
    elif values.ndim == 3:
        ax.imshow(values[0], cmap="gray", vmin=low, vmax=high)
    elif values.ndim == 2:
        ax.plot(values.T, linewidth=1)
    else:
        ax.bar(np.arange(values.size), values.reshape(-1))
    ax.set(xticks=[], yticks=[])


def draw_gallery(
    figure: Any, estimator: Any, X: Any, y: Any, report: Any, n_samples: int
) -> np.ndarray:
    """Draw the samples at both ends of a report, and return all axes."""
    influence = report["influence"].to_numpy()
    order = np.argsort(influence)[: np.sum(~np.isnan(influence))]
    n_shown = min(n_samples, len(order) // 2)
    n_blocks = max(-(-n_shown // MOST_COLUMNS), 1)
    n_columns = -(-n_shown // n_blocks)
    numbers = np.concatenate([order[:n_shown], order[::-1][:n_shown]])
    pictures = pictures_of(estimator, X, y, numbers)
    captions = [caption(report.iloc[number]) for number in numbers]
    axes = _grid(figure, 2 * n_blocks, len(pictures), n_columns, captions)
    blocks = axes.reshape(2 * n_blocks, len(pictures), n_columns)
    columns = np.swapaxes(blocks, 1, 2).reshape(2, -1, len(pictures))
    for ax in columns[:, n_shown:].flat:
        ax.set_axis_off()
    shown = columns[:, :n_shown].reshape(-1, len(pictures))
    for place, (column, number) in enumerate(zip(shown, numbers, strict=True)):
        is_wrong = _is_contradicted(estimator, report.iloc[number])
        color = CONTRADICTED if is_wrong else "black"
        column[0].set_title(captions[place], fontsize=CAPTION_SIZE, color=color)
        for ax, (kind, drawn) in zip(column, pictures.items(), strict=True):
            # What was predicted is compared with what was given.
            scales = pictures["given"] if kind == "predicted" else drawn
            draw_values(ax, drawn[place], scales[place])
    for block, end in zip(blocks, np.repeat(ENDS, n_blocks), strict=True):
        first, *others = pictures
        block[0, 0].set_ylabel(f"{end}\n{first}" if others else end)
        for ax, kind in zip(block[1:, 0], others, strict=True):
            ax.set_ylabel(kind)
    return axes


def _grid(
    figure: Any, n_blocks: int, n_kinds: int, n_columns: int, captions: list[str]
) -> np.ndarray:
    """Return axes wide and high enough for the captions above each block of lines."""
    axes = figure.subplots(n_blocks * n_kinds, n_columns, squeeze=False)
    longest = max(len(line) for text in captions for line in text.split("\n"))
    width = max(SMALLEST_WIDTH, INCHES_PER_CHARACTER * longest)
    n_captions = 1 + max(text.count("\n") for text in captions)
    height = SMALLEST_WIDTH * n_kinds + INCHES_PER_LINE * n_captions
    figure.set_size_inches(width * n_columns, height * n_blocks)
    return np.asarray(axes)


def _short(value: Any) -> str:
    if isinstance(value, float | np.floating):
        return f"{value:.3g}"
    text = str(value)
    return text if len(text) <= NAME_WIDTH else f"{text[: NAME_WIDTH - 1]}…"
