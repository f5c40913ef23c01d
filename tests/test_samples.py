"""Inputs, targets and class codes stay together, however they are stored."""

import pickle

import numpy as np
import pytest
import torch
from skorch import NeuralNet
from torch.utils.data import DataLoader, TensorDataset

from sk_datadrop import DatasetRows
from sk_datadrop._lazy import LazyTargets
from sk_datadrop._samples import Samples, class_codes, input_of

X = np.random.default_rng(0).random((12, 1, 4, 4), dtype=np.float32)
LABELS = np.arange(12) % 3
IMAGES = 1 - X


def lazy(y):
    return DatasetRows(TensorDataset(torch.tensor(X), torch.tensor(y)))


def labels_in_memory():
    return Samples.of(X, LABELS, LABELS)


def labels_of_lazy_inputs():
    return Samples.of(lazy(np.zeros(12)), LABELS, LABELS)


def images_in_memory():
    return Samples.of(X, IMAGES)


def images_of_lazy_inputs():
    samples = lazy(IMAGES)
    return Samples.of(samples, samples.targets)


def images_in_another_order():
    reversed_images = IMAGES[::-1].copy()
    return Samples.of(lazy(reversed_images), lazy(reversed_images).targets[::-1])


KINDS = {
    labels_in_memory: LABELS,
    labels_of_lazy_inputs: LABELS,
    images_in_memory: IMAGES,
    images_of_lazy_inputs: IMAGES,
    images_in_another_order: IMAGES,
}

every_kind = pytest.mark.parametrize(
    ("make", "targets"), KINDS.items(), ids=[make.__name__ for make in KINDS]
)

PLAIN = NeuralNet(torch.nn.Linear, criterion=torch.nn.MSELoss)


def assert_are(samples, indices, targets):
    """Samples are those of these numbers, whichever way one looks at them."""
    assert len(samples) == len(indices)
    pairs = PLAIN.get_dataset(*samples.arguments(PLAIN))
    inputs, of_dataset = zip(*(pairs[i] for i in range(len(indices))), strict=True)
    np.testing.assert_array_equal(np.stack(list(map(np.asarray, inputs))), X[indices])
    for found in (np.asarray(samples.y), np.stack(list(map(np.asarray, of_dataset)))):
        np.testing.assert_array_equal(found, targets[indices])
        assert found.dtype == targets.dtype
    if targets is LABELS:
        np.testing.assert_array_equal(samples.codes, LABELS[indices])
    else:
        assert samples.codes is None


@every_kind
def test_samples_are_cut_with_their_targets(make, targets):
    samples = make()
    assert_are(samples, np.arange(12), targets)
    assert_are(samples[[7, 2, 3]], np.array([7, 2, 3]), targets)
    assert_are(samples[2:9][::-2], np.arange(2, 9)[::-2], targets)


@every_kind
@pytest.mark.parametrize("sent", [False, True])
def test_parts_make_the_samples_again(make, targets, sent):
    samples = make()[[7, 2, 3, 11]]
    parts = samples.parts()
    joined = Samples.joined(*(pickle.loads(pickle.dumps(parts)) if sent else parts))
    assert type(joined.y) is type(samples.y)
    assert_are(joined, np.array([7, 2, 3, 11]), targets)
    assert_are(joined[[3, 0]], np.array([11, 7]), targets)


@every_kind
def test_parts_are_those_that_the_samples_hold(make, targets):
    """Joblib knows what it has sent already by its identity."""
    samples = make()
    first, again = samples.parts(), samples.parts()
    assert all(a is b for a, b in zip(first, again, strict=True))
    assert first[0] is samples.X
    # Targets that are read together with their inputs are not sent a second time.
    assert (first[1] is None) == isinstance(samples.y, LazyTargets)


@every_kind
def test_a_net_is_given_the_targets(make, targets):
    inputs, y = make()[[5, 1]].fit_arguments(PLAIN)
    if y is None:
        _, y = next(iter(DataLoader(inputs, batch_size=2)))
    np.testing.assert_array_equal(y, targets[[5, 1]])


def test_only_a_net_in_training_is_given_augmented_inputs():
    augmented = DatasetRows(
        TensorDataset(torch.tensor(X), torch.tensor(LABELS)),
        augmented=TensorDataset(torch.tensor(X + 1), torch.tensor(LABELS)),
    )
    samples = Samples.of(augmented, LABELS, LABELS)[[4, 6]]
    inputs, _ = samples.fit_arguments(PLAIN)
    np.testing.assert_array_equal(inputs[1][0], X[6] + 1)
    assert_are(samples, np.array([4, 6]), LABELS)
    assert_are(Samples.joined(*samples.parts()), np.array([4, 6]), LABELS)


def test_arrays_are_handed_over_as_they_are():
    samples = labels_in_memory()
    inputs, y = samples.fit_arguments(PLAIN)
    assert inputs is X
    assert y is LABELS


@pytest.mark.parametrize("inputs", [X, lazy(LABELS)], ids=["array", "lazy"])
def test_inputs_come_without_targets(inputs):
    found = input_of(inputs, 5)
    assert isinstance(found, np.ndarray)
    np.testing.assert_array_equal(found, X[5])


@pytest.mark.parametrize(
    ("y", "codes"),
    [
        (np.array([5, 2, 5]), [1, 0, 1]),
        (torch.tensor([[2], [1], [0]]), [2, 1, 0]),
        (torch.tensor([1.0, 0.0], dtype=torch.bfloat16), [1, 0]),
        (np.array([0.0, 1.0, 1.0]), [0, 1, 1]),
        (np.array([0.2, 0.9, 1.0]), [0, 0, 0]),
        (np.array([[0.2, 0.8], [0.5, 0.5]]), [0, 0]),
        (np.array([[0, 1], [1, 0]]), [0, 0]),
    ],
)
def test_class_codes(y, codes):
    found = class_codes(y)
    assert found.dtype == np.int64
    assert found.tolist() == codes
