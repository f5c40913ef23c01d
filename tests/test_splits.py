"""Values of cv, and the samples that each split trains on and holds out."""

import numpy as np
import pytest
from sklearn.model_selection import GroupKFold, KFold

from sk_datadrop._splits import Split, check_candidate_splits, held_out_splits

Y = np.repeat([0, 1], [40, 10])
X = np.zeros((50, 2))
CLASSES = np.array(["cat", "dog"])


def test_folds_hold_every_sample_out_once_and_keep_the_class_mix():
    splits = held_out_splits(5, X, Y, classes=CLASSES, random_state=0)
    held_out = np.concatenate([split.held_out for split in splits])
    np.testing.assert_array_equal(np.sort(held_out), np.arange(50))
    for split in splits:
        np.testing.assert_array_equal(np.bincount(Y[split.held_out]), [8, 2])
        assert not np.intersect1d(split.train, split.held_out).size


def test_folds_are_shuffled_by_the_seed():
    def first(seed):
        return held_out_splits(5, X, Y, random_state=seed)[0].held_out

    np.testing.assert_array_equal(first(0), first(0))
    assert not np.array_equal(first(0), first(1))
    assert not np.array_equal(first(0), np.arange(10))


def test_float_holds_out_one_share():
    (split,) = held_out_splits(0.2, X, Y, classes=CLASSES, random_state=0)
    np.testing.assert_array_equal(np.bincount(Y[split.held_out]), [8, 2])
    assert len(held_out_splits(0.2, X, Y, random_state=0)[0].held_out) == 10


def test_a_splitter_and_an_iterable_split_as_they_say():
    splitter = KFold(3)
    for cv in (splitter, list(splitter.split(X))):
        splits = held_out_splits(cv, X, Y, random_state=0)
        for split, (train, held_out) in zip(splits, splitter.split(X), strict=True):
            np.testing.assert_array_equal(split.train, train)
            np.testing.assert_array_equal(split.held_out, held_out)


class Halves:
    """A splitter with an argument of its own, and none named groups."""

    def split(self, X, y, classes=0):
        return [(np.arange(classes + 20, 50), np.arange(classes, classes + 20))]


def test_splitters_get_what_is_given_for_them():
    for params, first in ({}, 0), ({"classes": 5}, 5):
        (split,) = held_out_splits(Halves(), X, Y, random_state=0, split_params=params)
        assert split.held_out[0] == first
    groups = np.arange(50) % 4
    params = {"groups": groups}
    for split in held_out_splits(
        GroupKFold(2), X, Y, random_state=0, split_params=params
    ):
        assert not np.intersect1d(groups[split.train], groups[split.held_out]).size


def test_masks_name_samples():
    mask = np.arange(50) % 2 == 0
    (split,) = held_out_splits([(mask, ~mask)], X, Y, random_state=0)
    np.testing.assert_array_equal(split.train, np.arange(0, 50, 2))
    np.testing.assert_array_equal(split.held_out, np.arange(1, 50, 2))


@pytest.mark.parametrize(
    ("cv", "message"),
    [
        (1, "cv must be at least 2 folds"),
        (0.0, "must lie strictly between 0 and 1"),
        (1.0, "must lie strictly between 0 and 1"),
        ("five", "cv must be a number of folds"),
        (None, "cv must be a number of folds"),
        (True, "cv must be a number of folds"),
        (11, "class 'dog' has 10 sample"),
        ([], "cv gives no split"),
        (
            [(np.arange(40), np.arange(40, 60))],
            "cv names samples 40 to 59, but there are 50",
        ),
        ([(np.arange(50), np.arange(0))], "split 1 of cv holds out 0 sample"),
        ([(np.arange(0), np.arange(50))], "leaves none to train on"),
        ([(np.arange(50), np.arange(10))], "trains on samples that it also holds out"),
        ([(np.arange(40), np.arange(40, 50))], "trains on no sample of class 'dog'"),
        ([([0, 0, 1], [2, 3])], "names 1 of its samples more than once"),
        ([([0, 1], [2, 2])], "names 1 of its samples more than once"),
        ([([0.5, 1.5], [2, 3])], "an array of shape .2,. and dtype float64"),
        ([([[0], [1]], [2, 3])], "an array of shape .2, 1. and dtype int64"),
        ([([True, False], [2, 3])], r"a mask of shape \(50,\)"),
        ([(["a"], ["b"])], "and dtype <U1"),
        ([(None, [1, 2])], "and dtype object"),
        ([1, 2], "cv=list does not split the 50 samples into pairs"),
        (0.99, "cv=0.99 does not split the 50 samples .* train set will be empty"),
    ],
)
def test_bad_cv(cv, message):
    with pytest.raises(ValueError, match=message):
        held_out_splits(cv, X, Y, classes=CLASSES, random_state=0)


def splits_of(*pairs):
    return [Split(np.array(train), np.array(held_out)) for train, held_out in pairs]


FOLDS = [([2, 3, 4, 5], [0, 1]), ([0, 1, 4, 5], [2, 3]), ([0, 1, 2, 3], [4, 5])]
HALVES = [([0, 1, 2], [3, 4, 5]), ([3, 4, 5], [0, 1, 2])]
APART = [([0, 1], [2, 3]), ([4, 5], [6, 7])]


@pytest.mark.parametrize("pairs", [FOLDS, HALVES])
def test_candidates_of_auto_can_be_compared(pairs):
    check_candidate_splits(splits_of(*pairs))


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (FOLDS[:1], r"got 1 split\(s\) that hold out 2 samples in 2 places"),
        ([FOLDS[0]] * 2, r"got 2 split\(s\) that hold out 2 samples in 4 places"),
        (APART, "a sample which split 1 trains on"),
        ([*FOLDS, ([6, 7], [8, 9])], "a sample which split 4 trains on"),
    ],
)
def test_candidates_of_auto_cannot_be_compared(pairs, message):
    with pytest.raises(ValueError, match=f"drop_fraction='auto' .*{message}"):
        check_candidate_splits(splits_of(*pairs))
