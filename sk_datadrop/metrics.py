"""Scores for targets of any number of dimensions.

scikit-learn's regression metrics stop at 2-D targets; these serve images too
and come with scorers for ``scoring=`` in searches and cross-validation.
"""

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import make_scorer

__all__ = [
    "mean_squared_error",
    "neg_mean_squared_error_scorer",
    "peak_signal_noise_ratio",
    "peak_signal_noise_ratio_scorer",
    "r2_score",
]


def mean_squared_error(y_true: ArrayLike, y_pred: ArrayLike) -> float:
    """Return the mean of the squared differences over all elements.

    All pixels of all images count equally.

    Parameters
    ----------
    y_true, y_pred : array-like of shape (n_samples, ...)
        Targets and predictions of equal shape.

    Returns
    -------
    float
        Mean squared error, in squared target units.

    See Also
    --------
    peak_signal_noise_ratio, r2_score : The same in decibel, and relative.

    Examples
    --------
    >>> from sk_datadrop.metrics import mean_squared_error
    >>> mean_squared_error([[[0.0, 1.0]]], [[[0.0, 3.0]]])
    2.0
    """
    true, predicted = _as_equal_shapes(y_true, y_pred)
    return float(np.mean((true - predicted) ** 2))


def peak_signal_noise_ratio(
    y_true: ArrayLike, y_pred: ArrayLike, *, data_range: float = 1.0
) -> float:
    """Return the peak signal-to-noise ratio, averaged over the samples.

    The logarithm is taken per sample, so a few bad images do not dominate.

    Parameters
    ----------
    y_true, y_pred : array-like of shape (n_samples, ...)
        Images of equal shape.
    data_range : float, default=1.0
        Difference between the largest and smallest value an image can take.

    Returns
    -------
    float
        Mean of ``10 log10(data_range**2 / mse)`` in decibel; infinite if a sample fits.

    See Also
    --------
    mean_squared_error : The mean over all elements, without the logarithm.

    Examples
    --------
    >>> import numpy as np
    >>> from sk_datadrop.metrics import peak_signal_noise_ratio
    >>> round(peak_signal_noise_ratio(np.zeros((1, 4, 4)), np.full((1, 4, 4), 0.1)), 6)
    20.0
    """
    true, predicted = _as_equal_shapes(y_true, y_pred)
    errors = ((true - predicted) ** 2).reshape(len(true), -1).mean(axis=1)
    with np.errstate(divide="ignore"):
        return float(np.mean(10 * np.log10(data_range**2 / errors)))


def r2_score(y_true: ArrayLike, y_pred: ArrayLike) -> float:
    """Return the coefficient of determination, elements weighted by their variance.

    One minus the total squared error over the total squared deviation from the mean
    target, as scikit-learn's ``r2_score(..., multioutput="variance_weighted")`` of
    flattened targets. The error of an element that does not vary (a black corner of
    all images) counts here as any other; scikit-learn leaves it out.

    Parameters
    ----------
    y_true, y_pred : array-like of shape (n_samples, ...)
        Targets and predictions of equal shape.

    Returns
    -------
    float
        At most 1.0. It is 0.0 if the mean is predicted, or if targets are constant
        and missed.

    See Also
    --------
    mean_squared_error : In squared target units.
    sklearn.metrics.r2_score : For targets of at most two dimensions, with weights.

    Examples
    --------
    >>> from sk_datadrop.metrics import r2_score
    >>> r2_score([[[0.0, 2.0]], [[2.0, 4.0]]], [[[0.0, 2.0]], [[2.0, 3.0]]])
    0.75
    """
    true, predicted = _as_equal_shapes(y_true, y_pred)
    error = float(np.sum((true - predicted) ** 2))
    deviation = float(np.sum((true - true.mean(axis=0)) ** 2))
    if deviation == 0:
        return float(error == 0)
    return 1 - error / deviation


def _as_equal_shapes(*given: ArrayLike) -> list[np.ndarray]:
    y_true, y_pred = arrays = [np.asarray(y, dtype=np.float64) for y in given]
    if y_true.shape != y_pred.shape:
        raise ValueError(
            f"y_true has shape {y_true.shape} and y_pred {y_pred.shape}; they must "
            "be equal."
        )
    return arrays


neg_mean_squared_error_scorer = make_scorer(mean_squared_error, greater_is_better=False)
peak_signal_noise_ratio_scorer = make_scorer(peak_signal_noise_ratio)
