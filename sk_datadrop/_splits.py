"""The samples that each split trains on, and those it holds out."""

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any

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
    """Samples of one split, as indices into the data given to ``fit``.

    `held_out` is empty when the held-out samples come from elsewhere.
    """

    train: np.ndarray
    held_out: np.ndarray


def held_out_splits(
    cv: Any,
    X: Any,
    y: Any,
    *,
    classes: Any = None,
    random_state: int,
    split_params: Mapping[str, Any] = MappingProxyType({}),
) -> list[Split]:
    """Split the samples as `cv` says.

    An int is a number of folds and a float the share that one split holds out, both
    shuffled by `random_state`, and stratified where there are classes; y then holds
    their codes. A splitter gets the `split_params`, such as ``groups``. Raises a
    ValueError if `cv` is out of range, a class is too small for it, or a split would
    train on no sample, hold out none, train on one it holds out, or miss a class.
    """
    _check_class_sizes(cv, y, classes)
    splitter = _splitter(cv, stratified=classes is not None, random_state=random_state)
    try:
        found = splitter.split(X, y, **split_params)
        pairs = [(train, held_out) for train, held_out in found]
    except (ValueError, TypeError) as error:
        shown = cv if isinstance(cv, Real) else type(cv).__name__
        raise ValueError(
            f"cv={shown} does not split the {len(X)} samples into pairs (train, "
            f"held-out): {error}"
        ) from error
    splits = [Split(*(_indices(part, len(X)) for part in pair)) for pair in pairs]
    if not splits:
        raise ValueError("cv gives no split; it must give at least one.")
    for number, split in enumerate(splits, start=1):
        _check_split(split, number, len(X))
        if classes is not None:
            _check_classes_present(split, number, y, classes)
    return splits


def check_candidate_splits(splits: list[Split]) -> None:
    """Raise a ValueError unless there are samples to compare on, and to leave out.

    For "auto" every split must hold out samples of its own, and train on some that
    others score: those they train on, and those they hold out.
    """
    held_out = np.concatenate([split.held_out for split in splits])
    if len(splits) < 2 or len(np.unique(held_out)) < len(held_out):
        raise ValueError(
            "drop_fraction='auto' compares on samples that had no say, and for this "
            "needs at least two splits that hold out different samples; got "
            f"{len(splits)} split(s) that hold out {len(np.unique(held_out))} samples "
            f"in {len(held_out)} places. Use cv=5 or another number of folds, and "
            "neither X_val nor random splits."
        )
    for number, split in enumerate(splits):
        others = splits[:number] + splits[number + 1 :]
        scored = [part for s in others for part in (s.train, s.held_out)]
        if not np.isin(split.train, np.concatenate(scored)).any():
            raise ValueError(
                "drop_fraction='auto' trains each split without samples that other "
                "splits found harmful; got none that score a sample which split "
                f"{number + 1} trains on. Let the splits share samples."
            )


def _splitter(cv: Any, *, stratified: bool, random_state: int) -> Any:
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
                f"cv as a float is the share of samples held out and must lie strictly "
                f"between 0 and 1; got {cv}."
            )
        shuffle = StratifiedShuffleSplit if stratified else ShuffleSplit
        return shuffle(1, test_size=float(cv), random_state=random_state)
    if isinstance(cv, (str, bool)) or cv is None:
        raise ValueError(
            "cv must be a number of folds, a share of samples, a splitter or an "
            f"iterable of (train, held-out) indices; got {cv!r}."
        )
    return check_cv(cv)


def _indices(given: Any, n_samples: int) -> np.ndarray:
    """Return the indices of samples given as indices or as a mask."""
    indices: np.ndarray = np.asarray(given)
    if indices.dtype == bool and indices.shape == (n_samples,):
        return np.flatnonzero(indices)
    if indices.ndim != 1 or (indices.size and indices.dtype.kind not in "iu"):
        raise ValueError(
            f"cv names samples by an array of shape {indices.shape} and dtype "
            f"{indices.dtype}; they must be integers, or a mask of shape "
            f"({n_samples},)."
        )
    if indices.size and not 0 <= indices.min() <= indices.max() < n_samples:
        raise ValueError(
            f"cv names samples {indices.min()} to {indices.max()}, but there are "
            f"{n_samples} samples, counted from 0."
        )
    indices = indices.astype(np.int64)
    if len(np.unique(indices)) < len(indices):
        raise ValueError(
            f"cv names {len(indices) - len(np.unique(indices))} of its samples more "
            "than once in one split. A sample is trained on and scored once per split: "
            "leave out the repetitions."
        )
    return indices


def _check_class_sizes(cv: Any, y: Any, classes: Any) -> None:
    if classes is None or not isinstance(cv, Real) or isinstance(cv, bool):
        return
    needed = int(cv) if isinstance(cv, Integral) else 2
    counts = np.bincount(y, minlength=len(classes))
    smallest = int(counts.argmin())
    if counts[smallest] < needed:
        raise ValueError(
            f"class {_name(classes, smallest)} has {counts[smallest]} sample(s), too "
            f"few for cv={cv}, which needs at least {needed} of each class. Use fewer "
            "folds, merge rare classes, or pass X_val and y_val."
        )


def _check_split(split: Split, number: int, n_samples: int) -> None:
    problem = None
    if len(split.train) == 0:
        problem = "holds out every sample and leaves none to train on"
    elif len(split.held_out) < 2:
        problem = (
            f"holds out {len(split.held_out)} sample(s); influence is measured on "
            "held-out samples and needs at least two"
        )
    elif np.intersect1d(split.train, split.held_out).size:
        problem = "trains on samples that it also holds out"
    if problem:
        raise ValueError(
            f"split {number} of cv {problem} (of {n_samples} samples). Check cv."
        )


def _check_classes_present(
    split: Split, number: int, y: np.ndarray, classes: Any
) -> None:
    missing = np.setdiff1d(np.arange(len(classes)), y[split.train])
    if missing.size:
        raise ValueError(
            f"split {number} of cv trains on no sample of class "
            f"{_name(classes, missing[0])}; every class must be in the training "
            "samples of every split. Use a stratified splitter."
        )


def _name(classes: Any, position: int) -> str:
    return repr(np.asarray(classes).tolist()[position])
