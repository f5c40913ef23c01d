"""Many classes per sample, labels, pixels or tokens: from the fit to predictions."""

import re

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.metrics import accuracy_score
from skorch import NeuralNet, NeuralNetClassifier
from torch import nn
from torch.utils.data import TensorDataset

from sk_datadrop import (
    DataDropoutClassifier,
    DataDropoutRegressor,
    DataDropoutTransformer,
    influence_scores,
)
from sk_datadrop._judge import Evidence, Predictions, chance_of_harm


class Tagger(nn.Module):
    """A class for each token, by the token alone."""

    def __init__(self):
        super().__init__()
        self.embedding, self.linear = nn.Embedding(12, 4), nn.Linear(4, 3)

    def forward(self, X):
        return self.linear(self.embedding(X)).transpose(1, 2)


class Labels(nn.Linear):
    def __init__(self):
        super().__init__(8, 4)


class Segmenter(nn.Conv2d):
    def __init__(self, n_outputs=3):
        super().__init__(1, n_outputs, 1)


def net(module, criterion, kind=NeuralNet, **options):
    common = {"optimizer": torch.optim.Adam, "lr": 0.05, "max_epochs": 12}
    common |= {"batch_size": 32, "verbose": 0, "train_split": None}
    return kind(module, criterion=criterion, **common | options)


def spoiled(n_samples, share=0.15, seed=0):
    mask = np.zeros(n_samples, dtype=bool)
    rng = np.random.default_rng(seed)
    mask[rng.choice(n_samples, round(share * n_samples), replace=False)] = True
    return mask


def multilabel(n_samples=300):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_samples, 8)).astype(np.float32)
    y = (X @ rng.normal(size=(8, 4)) > 0).astype(int)
    wrong = spoiled(n_samples)
    column = rng.integers(0, 4, n_samples)
    y[wrong, column[wrong]] = 1 - y[wrong, column[wrong]]
    return X, y, wrong


def masks(n_samples=150):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, (n_samples, 5, 5))
    X = (y + 0.2 * rng.normal(size=y.shape))[:, None].astype(np.float32) - 1
    wrong = spoiled(n_samples)
    y[wrong] = rng.permuted(y[wrong].reshape(wrong.sum(), -1), axis=1).reshape(-1, 5, 5)
    return X, y, wrong


def tags(n_samples=150):
    rng = np.random.default_rng(0)
    X = rng.integers(0, 12, (n_samples, 6))
    y = X % 3
    wrong = spoiled(n_samples)
    y[wrong, 0] = (y[wrong, 0] + 1) % 3
    y[np.arange(6) >= rng.integers(3, 7, n_samples)[:, None]] = -100
    return X, y, wrong


CASES = {
    "labels": (multilabel, net(Labels, nn.BCEWithLogitsLoss)),
    "labels of a classifier": (
        multilabel,
        net(Labels, nn.BCEWithLogitsLoss, NeuralNetClassifier),
    ),
    "pixels": (masks, net(Segmenter, nn.CrossEntropyLoss)),
    "tokens": (tags, net(Tagger, nn.CrossEntropyLoss)),
}


@pytest.mark.parametrize("kind", CASES)
def test_samples_with_wrong_classes_are_dropped(kind):
    make, estimator = CASES[kind]
    X, y, wrong = make()
    model = DataDropoutClassifier(estimator, random_state=0).fit(X, y)
    dropped = ~model.sample_mask_
    assert dropped[wrong].mean() > 0.5
    assert wrong[dropped].mean() > 0.8
    predicted = model.predict(X)
    assert predicted.shape == y.shape
    assert predicted.dtype == np.int64
    counts = (y != -100) & ~wrong.reshape(-1, *[1] * (y.ndim - 1))
    assert (predicted == y)[counts].mean() > 0.9


@pytest.mark.parametrize("kind", ["labels", "tokens"])
def test_of_right_classes_none_is_dropped(kind):
    make, estimator = CASES[kind]
    X, y, wrong = make()
    X, y = X[~wrong], y[~wrong]
    model = DataDropoutClassifier(estimator, random_state=0).fit(X, y)
    assert model.n_dropped_ == 0


def test_pictures_with_a_part_that_is_wrong_are_dropped_and_noisy_ones_are_not():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, (160, 8, 8))
    X = (y + 0.1 * rng.normal(size=y.shape))[:, None].astype(np.float32) - 1
    wrong = spoiled(160)
    y[wrong, :3, :3] = (y[wrong, :3, :3] + 1) % 3
    y[~wrong, 7, 7] = 0
    model = DataDropoutClassifier(CASES["pixels"][1], random_state=0).fit(X, y)
    dropped = ~model.sample_mask_
    assert dropped[wrong].mean() > 0.8
    assert wrong[dropped].mean() > 0.9


def test_samples_without_a_class_are_kept_and_say_nothing():
    X, y, _ = masks()
    y[:20] = -100
    net_of_all = CASES["pixels"][1]
    net_of_all = clone(net_of_all).set_params(iterator_valid__batch_size=7)
    model = DataDropoutClassifier(net_of_all, random_state=0).fit(X, y)
    assert model.sample_mask_[:20].all()
    assert (model.influence_[:20] == 0).all()
    assert max(view.epoch for view in model.views_) > 1


class TestPredictions:
    def test_labels_have_the_chance_of_each(self):
        X, y, _ = multilabel(60)
        model = DataDropoutClassifier(CASES["labels"][1], cv=2, random_state=0)
        model.fit(X, y)
        logits = model.estimator_.predict_proba(X)
        # skorch makes pairs of them.
        expected = logits[:, 1] if logits.ndim == 3 else logits
        proba = model.predict_proba(X)
        np.testing.assert_allclose(proba, expected, rtol=1e-5)
        np.testing.assert_array_equal(model.predict(X), proba > 0.5)
        assert model.classes_.tolist() == [0, 1, 2, 3]
        assert model.score(X, y) == accuracy_score(y, model.predict(X))

    def test_pixels_have_chances_of_all_classes(self):
        X, y, _ = masks(60)
        model = DataDropoutClassifier(CASES["pixels"][1], cv=2, random_state=0)
        model.fit(X, y)
        outputs = next(model.estimator_.forward_iter(X[:8]))
        proba = model.predict_proba(X[:8])
        np.testing.assert_allclose(proba, outputs.softmax(1), rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(model.predict(X[:8]), proba.argmax(1))
        assert model.classes_.tolist() == [0, 1, 2]
        assert model.score(X, y) == (model.predict(X) == y).mean()

    def test_tokens_that_are_ignored_do_not_count(self):
        X, y, _ = tags(60)
        model = DataDropoutClassifier(CASES["tokens"][1], cv=2, random_state=0)
        model.fit(X, y)
        right = (model.predict(X) == y)[y != -100]
        assert model.score(X, y) == right.mean()

    def test_a_regressor_predicts_chances_in_the_shape_of_its_targets(self):
        X, y, _ = multilabel(60)
        model = DataDropoutRegressor(CASES["labels"][1], cv=2, random_state=0)
        model.fit(X, y.astype(np.float32))
        logits = next(model.estimator_.forward_iter(X[:8]))
        np.testing.assert_allclose(
            model.predict(X[:8]), torch.sigmoid(logits), rtol=1e-5
        )


@pytest.mark.parametrize("kind", ["labels", "pixels", "tokens"])
def test_data_sets_give_what_arrays_give(kind):
    make, estimator = CASES[kind]
    X, y, _ = make(60)
    model = DataDropoutClassifier(estimator, cv=2, random_state=0)
    expected = model.fit(X, y).influence_
    given = TensorDataset(torch.as_tensor(X), torch.as_tensor(y))
    np.testing.assert_array_equal(model.fit(given).influence_, expected)
    assert model.predict(given).shape == y.shape


@pytest.mark.parametrize("kind", ["labels", "pixels", "tokens"])
def test_wrong_classes_are_mended(kind):
    make, estimator = CASES[kind]
    X, y, wrong = make()
    model = DataDropoutClassifier(estimator, on_harmful="mend", random_state=0)
    model.fit(X, y)
    suggested = model.suggested_targets_
    changed = (suggested != y).reshape(len(y), -1).any(axis=1)
    assert wrong[changed].mean() > 0.8
    assert changed.sum() > 0.4 * wrong.sum()
    np.testing.assert_array_equal(suggested[y == -100], -100)
    assert set(np.unique(suggested)) <= set(np.unique(y))


def test_a_selector_takes_them_for_classes_too():
    X, y, wrong = masks(90)
    selector = DataDropoutTransformer(CASES["pixels"][1], random_state=0).fit(X, y)
    assert wrong[~selector.sample_mask_].mean() > 0.8


def test_scores_of_a_trained_net_tell_wrong_pixels():
    X, y, wrong = masks()
    trained = CASES["pixels"][1].fit(X, y)
    result = influence_scores(trained, X[:100], y[:100], X[100:], y[100:])
    of_wrong, of_right = (result.influence[wrong[:100] == k] for k in (True, False))
    assert np.median(of_wrong) < 0 < np.median(of_right)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.full((20, 3), 0.3), "must hold whole numbers.* got .*0.3.* MultiLabelBin"),
        (np.full((20, 3), "a"), "must hold whole numbers.* got .*'a'"),
    ],
)
def test_what_is_no_class_is_refused(y, message):
    X = np.zeros((20, 8), np.float32)
    with pytest.raises(ValueError, match=message):
        DataDropoutClassifier(CASES["labels"][1]).fit(X, y)


def evidence_of(log_proba, codes, *, has_columns):
    """Evidence of two splits that agree, and of influences that tell nothing."""
    n_samples = len(codes)
    half = np.arange(n_samples) % 2 == 0
    rng = np.random.default_rng(0)
    return Evidence(
        rng.normal(size=(2, n_samples)),
        np.arange(2),
        np.stack([half, ~half]),
        rng.uniform(1, 2, size=(2, n_samples)),
        [Predictions(k, np.arange(n_samples), log_proba) for k in range(2)],
        place_codes=codes,
        has_columns=has_columns,
    )


@pytest.mark.parametrize("has_columns", [True, False])
def test_the_class_most_likely_wrong_decides(has_columns):
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 2, (400, 3))
    proba = np.where(codes[:, None] == np.arange(2)[:, None], 0.98, 0.02)
    wrong = np.arange(400) % 10 == 0
    given = codes.copy()
    given[wrong, 1] = 1 - given[wrong, 1]
    evidence = evidence_of(np.log(proba), given, has_columns=has_columns)
    chance = chance_of_harm(evidence)
    assert (chance[wrong] > 0.5).mean() > 0.9
    assert (chance[~wrong] > 0.5).mean() < 0.05


def test_places_without_a_class_say_nothing():
    codes = np.full((40, 3), -1)
    proba = np.full((40, 2, 3), 0.5)
    evidence = evidence_of(np.log(proba), codes, has_columns=False)
    evidence.influence_per_view[:] = 0
    assert (chance_of_harm(evidence) <= 0.5).all()


@pytest.mark.parametrize("kind", ["labels", "tokens"])
def test_what_planted_classes_show_is_said(kind):
    make, estimator = CASES[kind]
    X, y, _ = make()
    sure = DataDropoutClassifier(estimator, random_state=0).fit(X, y)
    blind = clone(estimator).set_params(max_epochs=1, lr=1e-4)
    unsure = DataDropoutClassifier(blind, random_state=0).fit(X, y)
    found = [int(re.search(r"(\d+)%; scored", m.summary_)[1]) for m in (sure, unsure)]
    assert found[0] > 40
    assert found[1] < 20


class Supervised(NeuralNetClassifier):
    """A loss of hidden values beside that of the outputs."""

    def get_loss(self, y_pred, y_true, *args, **kwargs):
        main = super().get_loss(y_pred[0], y_true, *args, **kwargs)
        return main + 0.4 * super().get_loss(y_pred[1], y_true, *args, **kwargs)


class TwoDepths(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.first, self.second = (
            nn.Linear(8, 8),
            nn.Linear(8, 2),
            nn.Linear(8, 2),
        )

    def forward(self, X):
        return self.second(torch.tanh(self.hidden(X))), self.first(X)


def test_of_several_heads_for_one_class_the_first_is_asked():
    X, y, _ = multilabel(60)
    model = DataDropoutClassifier(
        net(TwoDepths, nn.CrossEntropyLoss, Supervised), cv=2, random_state=0
    ).fit(X, y[:, 0])
    main, _ = next(model.estimator_.forward_iter(X))
    proba = model.predict_proba(X[: len(main)])
    np.testing.assert_allclose(proba, main.softmax(1), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(model.predict(X[: len(main)]), main.argmax(1))
