"""Which rows each split trains on, and which it holds out."""

from dataclasses import dataclass
from numbers import Integral, Real
from types import MappingProxyType

import numpy as np
from sklearn.model_selection import (
    KFold,
    ShuffleSplit,
    StratifiedKFold,
    StratifiedShuffleSplit,
    check_cv,
)


@dataclass(frozen=True)
class Split:
    """Rows of one split, as indices into the data given to ``fit``.

    `held_out` is empty when the held-out rows come from elsewhere.
    """

    train: np.ndarray
    held_out: np.ndarray


def held_out_splits(
    cv, X, y, *, classes=None, random_state: int, split_params=MappingProxyType({})
) -> list[Split]:
    """Split the rows as `cv` says.

    Parameters
    ----------
    cv : int, float, splitter or iterable
        - int: number of folds, shuffled, stratified for a classifier;
        - float in (0, 1): one shuffled split that holds out this share,
          stratified for a classifier;
        - splitter with ``split(X, y)``;
        - iterable of (train, held-out) pairs of index arrays.
    X, y : array-like of shape (n_samples, ...)
        Data; y encoded as 0, 1, ... for a classifier.
    classes : array-like or None, default=None
        Names of the classes, for a classifier.
    random_state : int
        Shuffles int and float.
    split_params : mapping, default={}
        For the ``split`` of a splitter, such as ``groups`` of shape (n_samples,).

    Returns
    -------
    list of Split

    Raises
    ------
    ValueError
        If `cv` is out of range, a class is too small for it, a split would
        train on no row, hold out no row, train on a row it holds out, or miss a
        class.
    """
    _check_class_sizes(cv, y, classes)
    splitter = _splitter(cv, stratified=classes is not None, random_state=random_state)
    try:
        found = splitter.split(X, y, **split_params)
        pairs = [(train, held_out) for train, held_out in found]
    except (ValueError, TypeError) as error:
        shown = cv if isinstance(cv, Real) else type(cv).__name__
        raise ValueError(
            f"cv={shown} does not split the {len(X)} rows into pairs (train, held-out):"
            f" {error}"
        ) from error
    splits = [Split(*(_indices(rows, len(X)) for rows in pair)) for pair in pairs]
    if not splits:
        raise ValueError("cv gives no split; it must give at least one.")
    for number, split in enumerate(splits, start=1):
        _check_split(split, number, len(X))
        if classes is not None:
            _check_classes_present(split, number, y, classes)
    return splits


def _splitter(cv, *, stratified: bool, random_state: int):
    if isinstance(cv, Integral) and not isinstance(cv, bool):
        if cv < 2:
            raise ValueError(
                f"cv must be at least 2 folds; got {cv}. For one split hold out a "
                "share, such as cv=0.2."
            )
        fold = StratifiedKFold if stratified else KFold
        return fold(int(cv), shuffle=True, random_state=random_state)
    if isinstance(cv, Real) and not isinstance(cv, bool):
        if not 0 < float(cv) < 1:
            raise ValueError(
                f"cv as a float is the share of rows held out and must lie strictly "
                f"between 0 and 1; got {cv}."
            )
        shuffle = StratifiedShuffleSplit if stratified else ShuffleSplit
        return shuffle(1, test_size=float(cv), random_state=random_state)
    if isinstance(cv, (str, bool)) or cv is None:
        raise ValueError(
            f"cv must be a number of folds, a share of rows, a splitter or an iterable "
            f"of (train, held-out) indices; got {cv!r}."
        )
    return check_cv(cv)


def _indices(rows, n_samples: int) -> np.ndarray:
    """Rows given as indices or as a mask, as indices."""
    rows = np.asarray(rows)
    if rows.dtype == bool and rows.shape == (n_samples,):
        return np.flatnonzero(rows)
    if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
        raise ValueError(
            f"cv names rows by an array of shape {rows.shape} and dtype {rows.dtype}; "
            f"they must be integers, or a mask of shape ({n_samples},)."
        )
    if rows.size and not 0 <= rows.min() <= rows.max() < n_samples:
        raise ValueError(
            f"cv names rows {rows.min()} to {rows.max()}, but there are {n_samples} "
            "rows, counted from 0."
        )
    rows = rows.astype(np.int64)
    if len(np.unique(rows)) < len(rows):
        raise ValueError(
            f"cv names {len(rows) - len(np.unique(rows))} of its rows more than once "
            "in one split. A row is trained on and scored once per split: leave out "
            "the repetitions."
        )
    return rows


def _check_class_sizes(cv, y, classes) -> None:
    if classes is None or not isinstance(cv, Real) or isinstance(cv, bool):
        return
    needed = int(cv) if isinstance(cv, Integral) else 2
    counts = np.bincount(y, minlength=len(classes))
    smallest = int(counts.argmin())
    if counts[smallest] < needed:
        raise ValueError(
            f"class {_name(classes, smallest)} has {counts[smallest]} row(s), too few "
            f"for cv={cv}, which needs at least {needed} of each class. Use fewer "
            "folds, merge rare classes, or pass X_val and y_val."
        )


def _check_split(split: Split, number: int, n_samples: int) -> None:
    problem = None
    if len(split.train) == 0:
        problem = "holds out every row and leaves none to train on"
    elif len(split.held_out) < 2:
        problem = (
            f"holds out {len(split.held_out)} row(s); influence is measured on "
            "held-out rows and needs at least two"
        )
    elif np.intersect1d(split.train, split.held_out).size:
        problem = "trains on rows that it also holds out"
    if problem:
        raise ValueError(
            f"split {number} of cv {problem} (of {n_samples} rows). Check cv."
        )


def _check_classes_present(split: Split, number: int, y, classes) -> None:
    missing = np.setdiff1d(np.arange(len(classes)), y[split.train])
    if missing.size:
        raise ValueError(
            f"split {number} of cv trains on no row of class "
            f"{_name(classes, missing[0])}; every class must be in the training "
            "rows of every split. Use a stratified splitter."
        )


def _name(classes, position) -> str:
    return repr(np.asarray(classes).tolist()[position])
