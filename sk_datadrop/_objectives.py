"""What the rows held out measure: one number per row, lower is better.

The training loss is unbounded: a few held-out rows with wrong targets dominate
its mean and turn the scores upside down. The default squashes it into [0, 1), class by
class, or it would take the rows of a rare or difficult class for outliers.
"""

from collections.abc import Callable
from sys import float_info
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sk_datadrop._functional import FunctionalNet

WELSCH = 2.985
"""Standard deviations at which Welsch's loss levels off, if it is to be 95 % as
efficient as the mean square on normal residuals. Tighter ones take rows that are
merely hard for outliers: a denoiser then drops textured patches."""

Objective = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(losses, outputs, y, scales) of a batch of rows -> one value per row."""

RowObjective = Callable[[Tensor, Any, Any, np.ndarray], Tensor]
"""(theta, X, y, scales) of a batch of rows -> one value per row."""


def resolve_objective(objective) -> Objective:
    """Turn the `objective` parameter of an estimator into a function.

    Parameters
    ----------
    objective : {"bounded", "loss"} or callable
        - "bounded": ``1 - exp(-loss / scale)``. With a log-likelihood loss and
          scale 1 it is one minus the probability of the true class, the mean
          absolute error loss, robust to label noise [1]_; with larger scales that
          of a power of it, which hard rows still move [2]_. With the mean squared
          error it is Welsch's loss [3]_. See `row_scales` and `row_weights`.
        - "loss": the training loss itself, as the Data Dropout paper has it.
        - callable: ``objective(outputs, y)`` with the module's outputs and the
          targets of a batch, returning a tensor of shape (n_rows,), lower being
          better.

    Returns
    -------
    callable
        ``f(losses, outputs, y, scales) -> Tensor of shape (n_rows,)``.

    References
    ----------
    .. [1] Ghosh, Kumar, Sastry (2017). Robust loss functions under label noise
       for deep neural networks. arXiv:1712.09482
    .. [2] Zhang, Sabuncu (2018). Generalized cross entropy loss for training deep
       neural networks with noisy labels. arXiv:1805.07836
    .. [3] Holland, Welsch (1977). Robust regression using iteratively reweighted
       least-squares. doi:10.1080/03610927708827533
    """
    if objective == "loss":
        return lambda losses, outputs, y, scales: losses
    if objective == "bounded":
        return lambda losses, outputs, y, scales: 1 - torch.exp(-losses / scales)
    return lambda losses, outputs, y, scales: _checked(
        objective(outputs, y), len(losses)
    )


def largest_change(objective) -> float:
    """Return how far leaving a row out can at most change the mean objective.

    Less than infinity, which is no score.
    """
    return 1.0 if objective == "bounded" else float_info.max


def row_objective(net: FunctionalNet, objective) -> RowObjective:
    """Return the held-out objective as a function of the parameters.

    Parameters
    ----------
    net : FunctionalNet
    objective : {"bounded", "loss"} or callable

    Returns
    -------
    callable
        ``f(theta, X, y, scales) -> Tensor of shape (n_rows,)``.
    """
    measure = resolve_objective(objective)
    losses = net.losses_from_raw if objective == "loss" else net.likelihoods_from_raw

    def values(theta: Tensor, X, y, scales) -> Tensor:
        raw = net.raw_outputs(theta, X)
        of_rows = losses(raw, y)
        return measure(of_rows, raw, y, torch.as_tensor(scales).to(of_rows))

    return values


def class_codes(y, *, is_classification: bool) -> np.ndarray:
    """Return the class number of every row; one class for targets that are none.

    Parameters
    ----------
    y : array-like of shape (n_samples, ...)
        Targets. Those that are not whole numbers are probabilities, and no class
        numbers.
    is_classification : bool
        Whether the targets are classes.

    Returns
    -------
    ndarray of shape (n_samples,), dtype int64
    """
    none = np.zeros(len(y), dtype=np.int64)
    if not is_classification:
        return none
    # numpy reads neither other devices nor bfloat16.
    y = y.cpu().double().numpy() if isinstance(y, Tensor) else np.asarray(y)
    if y.size != len(y) or (y.dtype.kind == "f" and np.any(y % 1)):
        return none
    return np.unique(y.reshape(-1), return_inverse=True)[1]


@torch.no_grad()
def row_scales(
    net: FunctionalNet, objective, X, y, *, is_classification: bool, batch_size=None
) -> np.ndarray:
    """Losses at which the bounded objective levels off.

    Parameters
    ----------
    net : FunctionalNet
    objective : {"bounded", "loss"} or callable
    X, y : array-like of shape (n_samples, ...)
        Held-out rows.
    is_classification : bool
        Whether the targets are classes.
    batch_size : int or None, default=None

    Returns
    -------
    ndarray of shape (n_samples,), dtype float64
        For classes 1, or the median loss of the rows of a class if that is larger:
        where the net hardly knows a class, its rows are no outliers. Otherwise
        ``2.985**2`` times the median loss, as the median of a mean over many values is
        about their variance. One for other objectives.

    Raises
    ------
    ValueError
        If a loss is negative.
    """
    codes = class_codes(y, is_classification=is_classification)
    if objective != "bounded":
        return np.ones(len(codes))
    losses = np.concatenate(
        [
            net.likelihoods_from_raw(net.raw_outputs(net.theta, Xb), yb).double().cpu()
            for Xb, yb in net.batches(X, y, batch_size)
        ]
    )
    if losses.min() < 0:
        raise ValueError(
            "objective='bounded' needs a training loss that is never negative; got "
            f"{losses.min():.3g}. Use objective='loss', or a callable."
        )
    medians = np.array(
        [np.median(losses[codes == code]) for code in range(codes.max() + 1)]
    )
    if is_classification:
        return np.maximum(medians, 1.0)[codes]
    # A net that fits half the rows exactly must not divide zero by zero.
    return np.maximum(WELSCH**2 * medians, np.finfo(np.float32).tiny)[codes]


def row_weights(objective, y, *, is_classification: bool) -> np.ndarray:
    """Weights of held-out rows in the mean of the objective.

    Parameters
    ----------
    objective : {"bounded", "loss"} or callable
    y : array-like of shape (n_samples, ...)
        Targets of the held-out rows.
    is_classification : bool
        Whether the targets are classes.

    Returns
    -------
    ndarray of shape (n_samples,), dtype float64
        For "bounded" one over the number of rows of the class, so that the mean is
        that over the classes, as in balanced accuracy [1]_. Otherwise one.

    References
    ----------
    .. [1] Brodersen, Ong, Stephan, Buhmann (2010). The balanced accuracy and its
       posterior distribution. doi:10.1109/ICPR.2010.764
    """
    codes = class_codes(y, is_classification=is_classification)
    if objective != "bounded":
        return np.ones(len(codes))
    return 1 / np.bincount(codes)[codes]


@torch.no_grad()
def mean_objective(net: FunctionalNet, objective, X, y, scales, weights) -> float:
    """Mean of the objective over rows, by `row_scales` and `row_weights`.

    Raises a ValueError if it is NaN or infinite.
    """
    values, of_rows, n_done = row_objective(net, objective), [], 0
    for Xb, yb in net.batches(X, y):
        of_rows.append(values(net.theta, Xb, yb, scales[n_done:][: len(yb)]))
        n_done += len(yb)
    mean = float(np.average(torch.cat(of_rows).double().cpu(), weights=weights))
    if not np.isfinite(mean):
        raise ValueError(
            f"the held-out objective of the trained net is {mean}. Check objective and "
            "criterion on the held-out rows, scale X and y, or lower the learning rate."
        )
    return mean


def check_objective(objective) -> None:
    """Raise a ValueError unless `objective` is known or callable."""
    if objective not in ("bounded", "loss") and not callable(objective):
        raise ValueError(
            "objective must be 'bounded', 'loss' or a callable "
            f"(outputs, y) -> tensor of shape (n_rows,); got {objective!r}."
        )


def _checked(values, n_rows: int) -> Tensor:
    if not isinstance(values, Tensor) or values.shape != (n_rows,):
        got = tuple(values.shape) if isinstance(values, Tensor) else values
        raise ValueError(
            f"objective must return a tensor of shape ({n_rows},), one value per "
            f"row; got {got!r}."
        )
    return values
