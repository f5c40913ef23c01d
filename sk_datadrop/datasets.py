"""Controlled errors in clean data, for experiments and tests.

Every function copies its input and also returns a mask of the samples it changed, from
which precision and recall of a drop rule can be computed.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.ndimage import gaussian_filter
from sklearn.utils import check_random_state

__all__ = ["corrupt_targets", "flip_labels"]


def flip_labels(
    y: ArrayLike, rate: float, *, kind: str = "symmetric", random_state: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """Give a share of the samples a wrong label.

    Samples are drawn without regard to their class.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        Labels of any dtype, at least two classes.
    rate : float in [0, 1]
        Share of the samples whose label is changed.
    kind : {"symmetric", "pair"}, default="symmetric"
        "symmetric" draws the wrong label evenly from the other classes. "pair" uses
        the next class in sorted order (the first after the last). It is harder to
        find, because the wrong labels of a class agree with each other.
    random_state : int, RandomState instance or None, default=None
        Chooses the samples and the labels.

    Returns
    -------
    y_noisy : ndarray of shape (n_samples,)
        Labels with ``round(rate * n_samples)`` of them wrong.
    touched : ndarray of shape (n_samples,), dtype bool
        True where the label was changed.

    See Also
    --------
    corrupt_targets : The same for target images.

    Examples
    --------
    >>> from sk_datadrop.datasets import flip_labels
    >>> y, touched = flip_labels(["a", "b", "c", "a"], 0.5, random_state=0)
    >>> int(touched.sum())
    2
    """
    classes, codes = np.unique(np.asarray(y), return_inverse=True)
    if len(classes) < 2:
        raise ValueError(
            f"flip_labels needs at least two classes; got {len(classes)}: a single "
            "class has no wrong label."
        )
    if kind not in ("symmetric", "pair"):
        raise ValueError(f"kind must be 'symmetric' or 'pair'; got {kind!r}.")
    rng = check_random_state(random_state)
    rows, touched = _choose_rows(len(codes), rate, rng)
    steps = rng.randint(1, len(classes), len(rows)) if kind == "symmetric" else 1
    codes[rows] = (codes[rows] + steps) % len(classes)
    return classes[codes], touched


def corrupt_targets(
    y: ArrayLike, rate: float, *, kind: str = "gamma", random_state: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """Change a share of the target images in a way that is wrong.

    Such errors occur in real pairs of images.

    Parameters
    ----------
    y : array-like of shape (n_samples, ..., height, width), dtype float
        Target images with values in [0, 1].
    rate : float in [0, 1]
        Share of the samples that are changed.
    kind : {"gamma", "shift", "invert", "blur"}, default="gamma"
        "gamma" raises the values to the power 2.2, as a transfer curve applied twice
        does; "shift" moves the image by (2, 2) pixels, around the edges; "invert"
        replaces v by 1 - v; "blur" is Gaussian, of standard deviation 1.5 pixels.
    random_state : int, RandomState instance or None, default=None
        Chooses the samples.

    Returns
    -------
    y_corrupt : ndarray of the shape and dtype of y
        Targets with ``round(rate * n_samples)`` of them changed.
    touched : ndarray of shape (n_samples,), dtype bool
        True where the target was changed.

    See Also
    --------
    flip_labels : The same for labels.

    Examples
    --------
    >>> import numpy as np
    >>> from sk_datadrop.datasets import corrupt_targets
    >>> images = np.full((4, 1, 8, 8), 0.25)
    >>> y, touched = corrupt_targets(images, 0.5, kind="invert", random_state=0)
    >>> float(y[touched].max()), int(touched.sum())
    (0.75, 2)
    """
    y = np.array(y)
    if y.ndim < 3:
        raise ValueError(
            "corrupt_targets expects images of shape (n_samples, ..., height, width); "
            f"got shape {y.shape}."
        )
    is_float = y.dtype.kind == "f"
    # But for rounding, as resizing and blurring leave it.
    if not is_float or not ((y >= -1e-6) & (y <= 1 + 1e-6)).all():
        got = f"{y.min():.3g} to {y.max():.3g}" if is_float else f"dtype {y.dtype}"
        raise ValueError(
            f"corrupt_targets expects floats in [0, 1]; got {got}. Scale them first: "
            "y.astype(np.float32) / 255 for images of bytes."
        )
    if kind not in ("gamma", "shift", "invert", "blur"):
        raise ValueError(
            f"kind must be 'gamma', 'shift', 'invert' or 'blur'; got {kind!r}."
        )
    rows, touched = _choose_rows(len(y), rate, check_random_state(random_state))
    if kind == "gamma":
        y[rows] = np.clip(y[rows], 0, 1) ** 2.2
    elif kind == "shift":
        y[rows] = np.roll(y[rows], (2, 2), axis=(-2, -1))
    elif kind == "invert":
        y[rows] = 1 - y[rows]
    else:
        y[rows] = gaussian_filter(y[rows], (0,) * (y.ndim - 2) + (1.5, 1.5))
    return y, touched


def _choose_rows(
    n_samples: int, rate: float, rng: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """Return random positions, and a mask that is true there."""
    if not 0 <= rate <= 1:
        raise ValueError(f"rate must lie in [0, 1]; got {rate!r}.")
    # Not rng.choice: it would draw the permutation that a shuffled KFold of the
    # same seed draws, and the first fold would hold just these rows.
    rows = np.argsort(rng.uniform(size=n_samples))[: round(rate * n_samples)]
    return rows, np.isin(np.arange(n_samples), rows)
