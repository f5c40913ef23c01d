"""The interface of engines: every engine keeps its promises."""

import copy
import random
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.metrics import roc_auc_score
from skorch import NeuralNetClassifier
from torch import nn

from sk_datadrop import (
    CG,
    DataDropoutClassifier,
    Hessian,
    InfluenceFunctions,
    SolverResult,
    View,
)
from sk_datadrop._engine import (
    Request,
    check_engine,
    n_groups_of,
    score,
    split_groups,
)
from sk_datadrop._objective import HeldOutObjective
from sk_datadrop._samples import Samples
from sk_datadrop._training import Recipe, train_watched

# Adding an engine is one line.
ENGINES = {
    "influence functions": InfluenceFunctions(),
    "Hessian and CG": InfluenceFunctions(curvature=Hessian(damping=0.5), solver=CG()),
}
NUMBER = 2
ROUNDING = 1e-3

each_engine = pytest.mark.parametrize("name", ENGINES)


class Net(nn.Sequential):
    """Has dropout, which draws from torch's generator in training."""

    def __init__(self):
        super().__init__(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.1), nn.Linear(8, 3))


NET = NeuralNetClassifier(
    Net,
    criterion=nn.CrossEntropyLoss,
    optimizer=torch.optim.Adam,
    lr=0.03,
    max_epochs=8,
    batch_size=16,
    iterator_train__shuffle=True,
)
X = np.random.default_rng(0).normal(size=(90, 4)).astype(np.float32)
Y = np.arange(90) % 3
X += 3 * np.eye(4, dtype=np.float32)[Y]
# A sixth of the training samples has a wrong label.
SPOILED = np.arange(60) % 6 == 0
CODES = np.where(SPOILED, (Y[:60] + 1) % 3, Y[:60])
SAMPLES = Samples(X[:60], CODES, CODES)
HELD_OUT = Samples(X[60:], Y[60:], Y[60:])


@cache
def train(n_checkpoints=1):
    """Train a net that is to be scored, and that no test may change."""
    recipe = Recipe("training", seed=0)
    return train_watched(NET, SAMPLES, HELD_OUT, recipe, n_checkpoints=n_checkpoints)


def ask(
    name, training=None, samples=SAMPLES, held_out=HELD_OUT, kind="bounded", **options
):
    """Score samples; the options are those of the request."""
    training = training or train()
    objective = HeldOutObjective(kind, held_out)
    request = Request(**({"seed": 0, "number": NUMBER} | options))
    return score(ENGINES[name], training, samples, objective, request)


def assert_close(first, second):
    np.testing.assert_array_equal(np.isnan(first), np.isnan(second))
    difference = np.nan_to_num(first - second)
    assert np.linalg.norm(difference) <= ROUNDING * np.linalg.norm(np.nan_to_num(first))


def assert_same_modules(first, second):
    for key, value in second.state_dict().items():
        assert torch.equal(first.state_dict()[key], value)


def states_of_generators():
    return repr(
        [torch.get_rng_state().tolist(), np.random.get_state(), random.getstate()]
    )


class TestParameters:
    @each_engine
    @pytest.mark.parametrize("parameter", ["n_checkpoints", "n_groups"])
    @pytest.mark.parametrize(
        ("value", "error", "message"),
        [
            (0, ValueError, "== 0, must be >= 1"),
            (-1, ValueError, "== -1, must be >= 1"),
            (1.5, TypeError, "must be an instance of int"),
            ("2", TypeError, "must be an instance of int"),
        ],
    )
    def test_numbers_of_views_are_checked(self, name, parameter, value, error, message):
        engine = clone(ENGINES[name])
        check_engine(engine)
        engine.set_params(**{parameter: value})
        with pytest.raises(error, match=f"{parameter} {message}"):
            check_engine(engine)

    @each_engine
    def test_defaults_are_one_checkpoint_and_the_groups_that_splits_call_for(
        self, name
    ):
        params = type(ENGINES[name])().get_params()
        assert (params["n_checkpoints"], params["n_groups"]) == (1, None)

    @each_engine
    def test_can_be_set_through_the_estimator_and_its_clones(self, name):
        model = DataDropoutClassifier(NET, engine=ENGINES[name])
        before = repr(ENGINES[name])
        other = clone(model)
        assert repr(other.engine) == before
        numbers = {
            key: value
            for key, value in other.get_params().items()
            if key.startswith("engine__") and type(value) in (int, float)
        }
        assert "engine__n_checkpoints" in numbers
        changed = {key: value + 1 for key, value in numbers.items()}
        other.set_params(**changed)
        assert other.get_params().items() >= changed.items()
        assert other.engine.n_checkpoints == ENGINES[name].n_checkpoints + 1
        assert repr(ENGINES[name]) == before


class TestScores:
    @each_engine
    @pytest.mark.parametrize("n_checkpoints", [1, 3])
    @pytest.mark.parametrize("n_groups", [1, 3])
    def test_have_the_shapes_and_views_they_promise(
        self, name, n_checkpoints, n_groups
    ):
        training = train(n_checkpoints)
        scores = ask(name, training, n_groups=n_groups)
        assert scores.train.shape == (len(scores.views), 60)
        assert scores.held_out.shape == (len(scores.views), 30)
        assert scores.train.dtype == scores.held_out.dtype == np.float64
        assert np.isfinite(scores.train).all()
        epochs = sorted({view.epoch for view in scores.views})
        assert set(epochs) <= {c.epoch for c in training.checkpoints}
        assert scores.views == [
            View(NUMBER, epoch, group) for epoch in epochs for group in range(n_groups)
        ]
        for result in scores.solver_results:
            assert isinstance(result, SolverResult)
            assert result.solution is None

    @each_engine
    def test_are_lowest_for_wrong_labels(self, name):
        [influence] = ask(name).train
        assert roc_auc_score(~SPOILED, influence) > 0.95
        assert influence[SPOILED].mean() < 0 < influence[~SPOILED].mean()

    @each_engine
    def test_of_held_out_samples_are_nan_unless_asked_for(self, name):
        assert np.isfinite(ask(name).held_out).all()
        three = ask(name, n_groups=3).held_out
        # Every sample is in one of the groups, and not scored by it.
        np.testing.assert_array_equal(np.isnan(three).sum(axis=0), np.ones(30))
        unasked = ask(name, n_groups=3, score_held_out=False).held_out
        assert np.isnan(unasked).all()

    @each_engine
    @pytest.mark.parametrize("number", range(3))
    def test_of_a_held_out_sample_come_from_groups_without_it(self, name, number):
        """Views that score a sample do not change with it, and all others do."""
        X = HELD_OUT.X.copy()
        X[number] *= -1
        before, after = (
            ask(name, held_out=given, kind="loss", n_groups=3)
            for given in (HELD_OUT, replace(HELD_OUT, X=X))
        )
        own = np.isnan(before.held_out[:, number])
        np.testing.assert_array_equal(own, np.isnan(after.held_out[:, number]))
        change = np.linalg.norm(after.train - before.train, axis=1)
        change /= np.linalg.norm(before.train, axis=1)
        assert change[~own].max() < ROUNDING
        assert change[own].min() > 100 * ROUNDING

    @each_engine
    def test_are_those_of_the_seed(self, name):
        first, second, other = (ask(name, n_groups=3, seed=seed) for seed in (0, 0, 1))
        np.testing.assert_array_equal(first.train, second.train)
        np.testing.assert_array_equal(first.held_out, second.held_out)
        # Another seed draws other groups.
        assert not np.allclose(first.train, other.train)

    @each_engine
    def test_do_not_depend_on_the_batch_size(self, name):
        first, second = (ask(name, batch_size=n) for n in (None, 7))
        assert_close(first.train, second.train)
        assert_close(first.held_out, second.held_out)

    @each_engine
    def test_do_not_depend_on_the_order_of_held_out_samples(self, name):
        order = np.random.default_rng(0).permutation(30)
        first, second = (
            ask(name, held_out=given, score_held_out=False)
            for given in (HELD_OUT, HELD_OUT[order])
        )
        assert_close(first.train, second.train)

    @each_engine
    def test_do_not_depend_on_the_order_of_samples(self, name):
        order = np.random.default_rng(0).permutation(60)
        first, second = (ask(name, samples=s) for s in (SAMPLES, SAMPLES[order]))
        assert_close(first.train[:, order], second.train)
        assert_close(first.held_out, second.held_out)

    @each_engine
    def test_show_that_work_goes_on(self, name):
        calls = []
        ask(name, on_product=lambda: calls.append(None))
        assert len(calls) > 1


class TestLeftAsFound:
    @each_engine
    def test_net_and_engine(self, name):
        training = train.__wrapped__()
        net, module = training.net, training.net.module_
        module.train()
        module[1].eval()
        module[0].bias.grad = torch.ones(8)
        attributes, own = dict(vars(net)), repr(vars(ENGINES[name]))
        before = copy.deepcopy((module, net.optimizer_.state_dict()))
        ask(name, training, n_groups=2)
        assert vars(net).keys() == attributes.keys()
        assert all(vars(net)[key] is value for key, value in attributes.items())
        assert_same_modules(module, before[0])
        modes = [part.training for part in module.modules()]
        assert modes == [True, True, False, True, True]
        assert torch.equal(module[0].bias.grad, torch.ones(8))
        assert repr(net.optimizer_.state_dict()) == repr(before[1])
        assert repr(vars(ENGINES[name])) == own

    @each_engine
    def test_generators(self, name):
        train()
        before = states_of_generators()
        ask(name)
        assert states_of_generators() == before


class TestViewsOfFits:
    @each_engine
    def test_default_is_one_view_per_split(self, name):
        samples = np.arange(90)
        folds = samples // 3 % 3
        cv = [(samples[folds != k], samples[folds == k]) for k in range(3)]
        model = DataDropoutClassifier(NET, cv=cv, engine=ENGINES[name], random_state=0)
        model.fit(X, Y)
        assert [(view.split, view.group) for view in model.views_] == [
            (k, 0) for k in range(3)
        ]
        assert np.isfinite(model.influence_per_view_).all()

    @each_engine
    def test_default_of_a_single_split_is_eight_groups(self, name):
        model = DataDropoutClassifier(
            NET, cv=0.3, engine=ENGINES[name], random_state=0
        ).fit(X, Y)
        assert [view.group for view in model.views_] == list(range(8))
        n_missing = np.isnan(model.influence_per_view_).sum(axis=0)
        assert sorted(n_missing) == [0] * 63 + [1] * 27

    def test_checkpoints_times_groups_of_influence_functions(self):
        engine = InfluenceFunctions(n_checkpoints=3, n_groups=2)
        model = DataDropoutClassifier(NET, cv=2, engine=engine, random_state=0)
        model.fit(X, Y)
        epochs = [
            sorted({v.epoch for v in model.views_ if v.split == k}) for k in (0, 1)
        ]
        expected = [View(k, e, g) for k in (0, 1) for e in epochs[k] for g in (0, 1)]
        assert model.views_ == expected
        assert all(2 <= len(e) <= 3 for e in epochs)
        assert len(model.solver_results_) == sum(map(len, epochs))


class TestGroups:
    @pytest.mark.parametrize(
        ("n_splits", "n_held_out", "expected"),
        [(1, 100, 8), (2, 100, 8), (3, 100, 1), (1, 5, 5)],
    )
    def test_default_number(self, n_splits, n_held_out, expected):
        assert n_groups_of(InfluenceFunctions(), n_splits, n_held_out) == expected

    @pytest.mark.parametrize(("n_held_out", "expected"), [(100, 4), (3, 3)])
    def test_number_asked_for(self, n_held_out, expected):
        engine = InfluenceFunctions(n_groups=4)
        assert n_groups_of(engine, n_splits=5, n_held_out=n_held_out) == expected

    def test_share_every_class(self):
        codes = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [50, 9, 4]))
        groups = split_groups(codes, 4, np.random.default_rng(1))
        assert sorted(np.bincount(groups)) == [15, 16, 16, 16]
        for code, sizes in enumerate([[12, 12, 13, 13], [2, 2, 2, 3], [1, 1, 1, 1]]):
            assert sorted(np.bincount(groups[codes == code], minlength=4)) == sizes
        other = split_groups(codes, 4, np.random.default_rng(2))
        assert not np.array_equal(groups, other)
