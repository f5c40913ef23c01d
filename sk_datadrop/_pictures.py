"""What is shown of single samples, and how it is drawn on axes."""

from typing import Any

import numpy as np
from sklearn.utils import _safe_indexing

from sk_datadrop._samples import input_of

NAME_WIDTH = 18
"""Characters."""


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


def is_contradicted(estimator: Any, sample: Any) -> bool:
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


def _short(value: Any) -> str:
    if isinstance(value, float | np.floating):
        return f"{value:.3g}"
    text = str(value)
    return text if len(text) <= NAME_WIDTH else f"{text[: NAME_WIDTH - 1]}…"
