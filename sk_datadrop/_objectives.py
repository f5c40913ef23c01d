"""What the rows held out measure: one number per row, lower is better.

The training loss is unbounded: a few held-out rows with wrong targets dominate
its mean and turn the scores upside down. The default squashes it into [0, 1), and lets
every class weigh the same, or it would take the rows of a rare class for outliers.
"""

from collections.abc import Callable
from math import inf
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sk_datadrop._functional import FunctionalNet

WELSCH = 2.985
"""Standard deviations at which Welsch's loss levels off, if it is to be 95 % as
efficient as the mean square on normal residuals. Tighter ones take rows that are
merely hard for outliers: a denoiser then drops textured patches."""

Objective = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(losses, outputs, y) of a batch of rows -> one value per row."""

RowObjective = Callable[[Tensor, Any, Any], Tensor]
"""(theta, X, y) of a batch of rows -> one value per row."""


def resolve_objective(objective, reference_losses: Tensor | None) -> Objective:
    """Turn the `objective` parameter of an estimator into a function.

    Parameters
    ----------
    objective : {"bounded", "loss"} or callable
        - "bounded": ``1 - exp(-loss / scale)``. With a log-likelihood loss and
          scale 1 it is one minus the probability of the true class, the mean
          absolute error loss, robust to label noise [1]_. With the mean
          squared error and ``2.985**2`` times its median as scale, the median of a
          mean over many values being about their variance, it is Welsch's loss [2]_.
          See `row_weights` for its mean.
        - "loss": the training loss itself, as the Data Dropout paper has it.
        - callable: ``objective(outputs, y)`` with the module's outputs and the
          targets of a batch, returning a tensor of shape (n_rows,), lower being
          better.
    reference_losses : Tensor of shape (n_samples,) or None
        Losses of the held-out rows, whose median sets the scale of "bounded".
        None takes scale 1, for losses that are negative log-likelihoods.

    Returns
    -------
    callable
        ``f(losses, outputs, y) -> Tensor of shape (n_rows,)``.

    References
    ----------
    .. [1] Ghosh, Kumar, Sastry (2017). Robust loss functions under label noise
       for deep neural networks. arXiv:1712.09482
    .. [2] Holland, Welsch (1977). Robust regression using iteratively reweighted
       least-squares. doi:10.1080/03610927708827533
    """
    if objective == "loss":
        return lambda losses, outputs, y: losses
    if objective == "bounded":
        scale = _bounded_scale(reference_losses)
        return lambda losses, outputs, y: 1 - torch.exp(-losses / scale)
    return lambda losses, outputs, y: _checked(objective(outputs, y), len(losses))


def largest_change(objective) -> float:
    """Return how far leaving a row out can at most change the mean objective."""
    return 1.0 if objective == "bounded" else inf


def row_objective(net: FunctionalNet, objective, reference_losses) -> RowObjective:
    """Return the held-out objective as a function of the parameters.

    Parameters
    ----------
    net : FunctionalNet
    objective : {"bounded", "loss"} or callable
    reference_losses : Tensor of shape (n_samples,) or None
        See `resolve_objective`.

    Returns
    -------
    callable
        ``f(theta, X, y) -> Tensor of shape (n_rows,)``.
    """
    measure = resolve_objective(objective, reference_losses)
    losses = net.losses_from_raw if objective == "loss" else net.likelihoods_from_raw

    def values(theta: Tensor, X, y) -> Tensor:
        raw = net.raw_outputs(theta, X)
        return measure(losses(raw, y), raw, y)

    return values


@torch.no_grad()
def row_losses(net: FunctionalNet, X, y, batch_size: int | None = None) -> Tensor:
    """Training losses of the rows, the `reference_losses` of a net."""
    batches = net.batches(X, y, batch_size)
    return torch.cat([net.row_losses(net.theta, Xb, yb) for Xb, yb in batches])


def class_codes(y, *, is_likelihood: bool) -> np.ndarray:
    """Return the class number of every row; one class for targets that are none.

    Parameters
    ----------
    y : array-like of shape (n_samples, ...)
        Targets. Those that are not whole numbers are probabilities, and no classes.
    is_likelihood : bool
        Whether the training loss is that of a classifier.

    Returns
    -------
    ndarray of shape (n_samples,), dtype int64
    """
    none = np.zeros(len(y), dtype=np.int64)
    if not is_likelihood:
        return none
    # numpy reads neither other devices nor bfloat16.
    y = y.cpu().double().numpy() if isinstance(y, Tensor) else np.asarray(y)
    if y.size != len(y) or (y.dtype.kind == "f" and np.any(y % 1)):
        return none
    return np.unique(y.reshape(-1), return_inverse=True)[1]


def row_weights(objective, codes) -> np.ndarray:
    """Weights of held-out rows in the mean of the objective.

    Parameters
    ----------
    objective : {"bounded", "loss"} or callable
    codes : ndarray of shape (n_samples,), dtype int
        See `class_codes`.

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
    if objective != "bounded":
        return np.ones(len(codes))
    return 1 / np.bincount(codes)[codes]


@torch.no_grad()
def mean_objective(net: FunctionalNet, X, y, values: RowObjective, weights) -> float:
    """Mean of the objective over the rows, by `row_weights`."""
    batches = net.batches(X, y)
    of_rows = torch.cat([values(net.theta, Xb, yb) for Xb, yb in batches])
    return float(np.average(of_rows.cpu().numpy(), weights=weights))


def check_objective(objective) -> None:
    """Raise a ValueError unless `objective` is known or callable."""
    if objective not in ("bounded", "loss") and not callable(objective):
        raise ValueError(
            "objective must be 'bounded', 'loss' or a callable "
            f"(outputs, y) -> tensor of shape (n_rows,); got {objective!r}."
        )


def _bounded_scale(reference_losses: Tensor | None) -> float:
    if reference_losses is None:
        return 1.0
    if reference_losses.min() < 0:
        raise ValueError(
            "objective='bounded' needs a training loss that is never negative; got "
            f"{float(reference_losses.min()):.3g}. Use objective='loss', or a callable."
        )
    # The smallest normal number keeps a net that fits half the rows exactly
    # from dividing zero by zero.
    tiny = torch.finfo(reference_losses.dtype).tiny
    return max(WELSCH**2 * float(reference_losses.median()), tiny)


def _checked(values, n_rows: int) -> Tensor:
    if not isinstance(values, Tensor) or values.shape != (n_rows,):
        got = tuple(values.shape) if isinstance(values, Tensor) else values
        raise ValueError(
            f"objective must return a tensor of shape ({n_rows},), one value per "
            f"row; got {got!r}."
        )
    return values
