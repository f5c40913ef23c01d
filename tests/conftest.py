"""Small nets and data sets the tests share."""

import functools
import os

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from skorch import NeuralNetClassifier, NeuralNetRegressor
from torch import nn

from sk_datadrop import _two_rounds
from sk_datadrop.datasets import flip_labels

# Assertions of shared helpers then show their values, as those of tests do.
pytest.register_assert_rewrite("fits")


class MLP(nn.Module):
    """Two linear layers with a smooth activation in between."""

    def __init__(self, n_inputs=4, n_hidden=5, n_outputs=3, activation=None):
        super().__init__()
        self.first = nn.Linear(n_inputs, n_hidden)
        self.second = nn.Linear(n_hidden, n_outputs)
        self.activation = activation

    def forward(self, X):
        X = self.second(torch.tanh(self.first(X)))
        return X if self.activation is None else self.activation(X)


class PenalisedNet(NeuralNetClassifier):
    """Skorch's usual way to add a penalty on the weights."""

    def get_loss(self, y_pred, y_true, *args, **kwargs):
        loss = super().get_loss(y_pred, y_true, *args, **kwargs)
        return loss + 0.1 * sum(p.abs().sum() for p in self.module_.parameters())


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Here and in the processes that tests start: they run side by side."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


@pytest.fixture
def classifier():
    """Net of 4 inputs and 3 classes."""
    return NeuralNetClassifier(
        MLP,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=0.05,
        max_epochs=5,
        batch_size=16,
        iterator_train__shuffle=True,
    )


@pytest.fixture
def regressor():
    """Net of 4 inputs and 1 target."""
    return NeuralNetRegressor(
        MLP,
        module__n_outputs=1,
        optimizer=torch.optim.Adam,
        lr=0.05,
        max_epochs=5,
        batch_size=16,
    )


@pytest.fixture
def blobs():
    """90 rows of 4 features in 3 classes that a net can tell apart."""
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], 30)
    X = rng.normal(size=(90, 4)) + 3 * np.eye(4)[y]
    order = rng.permutation(90)
    return X[order].astype(np.float32), y[order]


@pytest.fixture
def plane():
    """80 rows of 4 features with a linear target."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 4))
    return X.astype(np.float32), (X @ [1.0, -2.0, 0.5, 0.0]).astype(np.float32)


@pytest.fixture
def trainings(monkeypatch):
    """Seeds of the trainings of round 1, in the order in which they take place."""
    seeds = []
    original = _two_rounds.train_watched

    @functools.wraps(original)
    def counted(net, samples, held_out, recipe, **options):
        seeds.append(recipe.seed)
        return original(net, samples, held_out, recipe, **options)

    monkeypatch.setattr(_two_rounds, "train_watched", counted)
    return seeds


@pytest.fixture(scope="session")
def noisy_digits():
    """600 digits (N, 1, 8, 8), a fifth with a wrong label, and which."""
    digits = load_digits()
    X = (digits.images[:600, None] / 16).astype(np.float32)
    y, flipped = flip_labels(digits.target[:600], 0.2, random_state=0)
    return X, y, flipped
