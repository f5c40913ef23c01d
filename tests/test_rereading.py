"""Samples that come out differently each time they are read are noticed."""

import random

import numpy as np
import pytest
import skorch
import torch
from test_casting import VALUES, Items, N, Table, Y, model_of
from torch.utils.data import TensorDataset, default_collate

from sk_datadrop import DataDropoutWarning, DatasetRows, influence_scores

own_generator = np.random.default_rng(0)


def plain(number):
    return torch.tensor(VALUES[number]).float(), Y[number]


def changed_by(draw):
    def make(number):
        x, y = plain(number)
        return x + draw(), y

    return Items(make)


KINDS = {
    "torch": lambda: torch.randn(2),
    "numpy": lambda: float(np.random.normal()),
    "python": random.random,
    "own": lambda: float(own_generator.normal()),
    "flips": lambda: float(torch.rand(()) < 0.5),
}


@pytest.mark.parametrize("kind", KINDS)
def test_random_data_sets_are_named_before_training(kind):
    states = torch.get_rng_state(), np.random.get_state()[1], random.getstate()
    message = r"data set of X, Items, gives other values.*DatasetRows\(plain, augm"
    with pytest.warns(DataDropoutWarning, match=message):
        model = model_of(Table).fit(changed_by(KINDS[kind]), Y)
    assert any("gives other values" in said for said in model.warnings_)
    assert torch.equal(states[0], torch.get_rng_state())
    np.testing.assert_array_equal(states[1], np.random.get_state()[1])
    assert states[2] == random.getstate()


@pytest.mark.filterwarnings("error:.*gives other values")
def test_augmentation_of_training_alone_is_no_matter():
    augmented = changed_by(KINDS["torch"])
    rows = DatasetRows(Items(plain), augmented=augmented)
    model = model_of(Table).fit(rows)
    influence_scores(model.estimator_, rows, None, rows, None)


def test_random_held_out_samples_are_named():
    with pytest.warns(DataDropoutWarning, match="data set of X_val, Items, gives"):
        model_of(Table).fit(Items(plain), X_val=changed_by(KINDS["torch"]))


def test_influence_scores_name_random_data_sets():
    model = model_of(Table).fit(VALUES, Y)
    X = changed_by(KINDS["torch"])
    with pytest.warns(DataDropoutWarning, match="data set of X, Items, gives other"):
        influence_scores(model.estimator_, X, None, VALUES.astype("f4"), Y)


class Noisy(skorch.dataset.Dataset):
    def transform(self, X, y):
        X, y = super().transform(X, y)
        return X + np.random.normal(size=2).astype("f4"), y


def noisy(batch):
    X, y = default_collate(batch)
    return X + torch.randn(X.shape) / 100, y


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"dataset": Noisy}, "dataset=Noisy of the net"),
        ({"iterator_valid__collate_fn": noisy}, "iterator_valid__collate_fn of the"),
    ],
)
def test_what_the_net_draws_for_batches_is_named(options, name):
    with pytest.warns(DataDropoutWarning, match=f"{name}.*gives other values"):
        model_of(Table, **options).fit(VALUES, Y)


def test_few_samples_are_read_to_find_out():
    read = []

    def make(number):
        read.append(number)
        return plain(number)

    model = model_of(Table, max_epochs=0)
    with pytest.raises(ValueError, match="trained for no epoch"):
        model.fit(Items(make), Y)
    assert len(read) < 60
    assert len(set(read)) < 20 < N


def test_data_sets_that_stay_the_same_are_no_matter():
    model = model_of(Table).fit(TensorDataset(torch.tensor(VALUES), torch.tensor(Y)))
    assert not any("gives other values" in said for said in model.warnings_)
