"""Contamination: how much, where, and of which kind."""

import numpy as np
import pytest

from sk_datadrop.datasets import corrupt_targets, flip_labels

Y = np.tile(np.arange(5), 40)
IMAGES = np.random.default_rng(0).random((40, 1, 6, 6)).astype(np.float32)


def blurred(image):
    """By one product for each axis, the image going on as its mirror image."""
    distances = np.arange(-6, 7)
    weights = np.exp(-(distances**2) / (2 * 1.5**2))
    smooth = np.zeros((6, 6))
    for row in range(6):
        for weight, distance in zip(weights / weights.sum(), distances, strict=True):
            column = (row + distance) % 12
            smooth[row, min(column, 11 - column)] += weight
    return smooth @ image @ smooth.T


@pytest.mark.parametrize("kind", ["symmetric", "pair"])
def test_touched_rows_are_wrong_and_the_others_are_not(kind):
    noisy, touched = flip_labels(Y, 0.3, kind=kind, random_state=0)
    assert touched.sum() == 60
    np.testing.assert_array_equal(noisy != Y, touched)


def test_pairs_take_the_next_class():
    noisy, touched = flip_labels(Y, 0.5, kind="pair", random_state=0)
    np.testing.assert_array_equal(noisy[touched], (Y[touched] + 1) % 5)


def test_symmetric_reaches_every_other_class():
    noisy, touched = flip_labels(Y, 1.0, random_state=0)
    assert {(a, b) for a, b in zip(Y, noisy, strict=True)} == {
        (a, b) for a in range(5) for b in range(5) if a != b
    }
    assert touched.all()


def test_labels_of_any_type():
    names = np.array(["a", "b", "c", "d", "e"])[Y]
    noisy, touched = flip_labels(names, 0.2, random_state=0)
    assert noisy.dtype == names.dtype
    np.testing.assert_array_equal(noisy != names, touched)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("invert", lambda image: [1 - image]),
        ("shift", lambda image: [np.roll(image, (2, 2), (-2, -1))]),
        ("gamma", lambda image: [image**2.2]),
        ("blur", lambda image: [blurred(image)]),
    ],
)
def test_corruptions(kind, expected):
    y, touched = corrupt_targets(IMAGES, 0.25, kind=kind, random_state=0)
    assert touched.sum() == 10
    assert y.dtype == IMAGES.dtype
    np.testing.assert_array_equal(y[~touched], IMAGES[~touched])
    for after, before in zip(y[touched], IMAGES[touched], strict=True):
        assert any(np.allclose(after, e, atol=1e-6) for e in expected(before))


def test_input_is_not_changed_and_seed_decides():
    y, images = Y.copy(), IMAGES.copy()
    first, second = (flip_labels(y, 0.5, random_state=1)[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    corrupt_targets(images, 0.5, random_state=1)
    np.testing.assert_array_equal(y, Y)
    np.testing.assert_array_equal(images, IMAGES)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: flip_labels(Y, 1.5), r"rate must lie in \[0, 1\]; got 1.5"),
        (lambda: flip_labels(Y, 0.1, kind="all"), "kind must be 'symmetric' or 'pair'"),
        (lambda: flip_labels([1, 1], 0.1), "needs at least two classes; got 1"),
        (lambda: corrupt_targets(IMAGES, -1), r"rate must lie in \[0, 1\]"),
        (lambda: corrupt_targets(IMAGES, 0.1, kind="noise"), "kind must be 'gamma'"),
        (
            lambda: corrupt_targets((255 * IMAGES).astype(np.uint8), 0.1),
            r"expects floats in \[0, 1\]; got dtype uint8",
        ),
        (
            lambda: corrupt_targets(255 * IMAGES, 0.1),
            r"expects floats in \[0, 1\]; got .* to 25",
        ),
        (lambda: corrupt_targets(np.nan * IMAGES, 0.1), "got nan to nan"),
        (lambda: corrupt_targets(Y, 0.1), r"expects images .* got shape \(200,\)"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
