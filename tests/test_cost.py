"""The cost of a fit follows from the parts it is made of."""

import sys

import numpy as np
import pytest
import torch
from sklearn.model_selection import GroupKFold
from skorch import NeuralNetRegressor
from torch.utils.data import TensorDataset

from sk_datadrop import (
    Cost,
    DataDropoutRegressor,
    DataDropoutTransformer,
    DatasetRows,
    GaussNewton,
    Trajectory,
    _cost,
    estimate_cost,
)


class Clock:
    """Time goes by with the rows that a net sees, and only so."""

    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(_cost, "perf_counter", clock)
    return clock


@pytest.fixture
def rows():
    X = np.random.default_rng(0).normal(size=(400, 3)).astype(np.float32)
    return X, X.sum(axis=1, keepdims=True)


def regressor(clock):
    """Takes one second a row forward, and three in training."""

    class Linear(torch.nn.Linear):
        def forward(self, X):
            clock.seconds += len(X) * (3 if self.training else 1)
            return super().forward(X)

    net = NeuralNetRegressor(
        Linear,
        module__in_features=3,
        module__out_features=1,
        max_epochs=10,
        lr=0.01,
        batch_size=50,
        verbose=0,
    )
    curvature = GaussNewton(n_samples=50)
    return DataDropoutRegressor(net, cv=4, curvature=curvature, random_state=0)


@pytest.mark.parametrize("n_samples", [100, 200])
def test_training_is_that_of_the_rows_seen(n_samples, clock, rows):
    cost = estimate_cost(regressor(clock), *rows, n_samples=n_samples)
    # Four rounds of 300 rows and 100 held out, and 400 rows in the end.
    stages = cost.seconds_per_stage
    assert stages["round_one"] == pytest.approx(4 * 10 * (300 * 3 + 100))
    assert stages["round_two"] == pytest.approx(10 * 400 * 3)
    # The checks ask the net for a few rows.
    assert 0 < cost.seconds - sum(stages.values()) < 20
    assert cost.n_trainings == 5


def test_scoring_is_measured_on_few_rows_and_predicted_for_all(clock, rows):
    expected = {
        n: estimate_cost(regressor(clock), *rows, n_samples=n) for n in (100, 300)
    }
    few, many = (expected[n].seconds_per_stage["scoring"] for n in (100, 300))
    # The solver may take a step more or less.
    assert few == pytest.approx(many, rel=0.1)
    clock.seconds = 0
    model = regressor(clock).fit(*rows)
    fitted = clock.seconds - sum(
        few_of
        for name, few_of in expected[100].seconds_per_stage.items()
        if name != "scoring"
    )
    # Checks before the training, and products until the solver converges, besides.
    assert few == pytest.approx(fitted, rel=0.3)
    assert model.n_dropped_ >= 0


def test_trials_and_side_by_side_rounds(clock, rows):
    plain = estimate_cost(regressor(clock), *rows)
    auto = estimate_cost(regressor(clock).set_params(drop_fraction="auto"), *rows)
    assert auto.n_trainings == plain.n_trainings + 8
    assert auto.seconds_per_stage["trials"] == pytest.approx(
        2 * plain.seconds_per_stage["round_one"]
    )
    stages = plain.seconds_per_stage
    beside = estimate_cost(regressor(clock).set_params(n_jobs=2), *rows)
    assert beside.seconds == pytest.approx(
        (stages["round_one"] + stages["scoring"]) / 2 + stages["round_two"], rel=0.01
    )


def test_workers_take_turns(clock, rows):
    model = regressor(clock).set_params(cv=5, drop_fraction="auto")
    alone = estimate_cost(model, *rows)
    beside = estimate_cost(model.set_params(n_jobs=4), *rows)
    stages = alone.seconds_per_stage
    # Five rounds and ten trials by four.
    assert beside.seconds == pytest.approx(
        (stages["round_one"] + stages["scoring"]) * 2 / 5
        + stages["trials"] * 3 / 10
        + stages["round_two"],
        rel=0.01,
    )


def test_a_single_round_shares_out_the_rows_it_scores(clock, rows):
    model = regressor(clock).set_params(cv=0.25)
    one, two, four = (
        estimate_cost(model.set_params(n_jobs=n), *rows) for n in (None, 2, 4)
    )
    saved = one.seconds - two.seconds
    assert 0 < saved < one.seconds_per_stage["scoring"] / 2
    assert one.seconds - four.seconds == pytest.approx(1.5 * saved)
    model.set_params(engine=Trajectory(), curvature=None)
    one, two = (estimate_cost(model.set_params(n_jobs=n), *rows) for n in (None, 2))
    assert one.seconds == pytest.approx(two.seconds)


def test_replay_takes_longer_with_more_epochs(clock, rows):
    model = regressor(clock).set_params(engine=Trajectory(), curvature=None)
    ten = estimate_cost(model, *rows)
    twenty = estimate_cost(model.set_params(estimator__max_epochs=20), *rows)
    assert twenty.seconds_per_stage["scoring"] == pytest.approx(
        2 * ten.seconds_per_stage["scoring"]
    )


def test_rows_on_disk_are_not_copied(clock, rows, monkeypatch):
    monkeypatch.setattr(_cost, "_peak", lambda: 5e9)
    X, y = rows
    in_memory = estimate_cost(regressor(clock), X, y)
    data = DatasetRows(TensorDataset(torch.tensor(X), torch.tensor(y)))
    read = estimate_cost(regressor(clock), data, y)
    assert in_memory.memory - read.memory == X.nbytes + y.nbytes
    # Three weights and a bias, in four nets of round 1.
    assert read.memory == 5e9 + 4 * 4 * 4


@pytest.mark.skipif(sys.platform == "win32", reason="cannot tell there")
def test_peak_is_that_of_the_process():
    before = _cost._peak()
    held = np.ones(int(before / 8) + 10**7)
    assert _cost._peak() > before + 5e7
    del held
    assert _cost._peak() > before + 5e7


def test_estimate_fits_nothing_and_takes_held_out_rows(clock, rows):
    X, y = rows
    model = regressor(clock)
    cost = estimate_cost(model, X[:300], y[:300], X_val=X[300:], y_val=y[300:])
    assert cost.n_trainings == 2
    assert cost.seconds_per_stage["round_two"] == pytest.approx(10 * (300 * 3 + 100))
    assert not hasattr(model, "influence_")


def test_params_are_those_of_fit(clock, rows):
    class Noted(NeuralNetRegressor):
        def fit(self, X, y, numbers, **fit_params):
            np.testing.assert_array_equal(X, rows[0][numbers])
            return super().fit(X, y, **fit_params)

    model = regressor(clock).set_params(cv=GroupKFold(4))
    model.estimator = Noted(**model.estimator.get_params(deep=False))
    numbers = np.arange(400)
    cost = estimate_cost(model, *rows, groups=numbers % 8, numbers=numbers)
    assert cost.n_trainings == 5


def test_selectors_have_no_cost(clock, rows):
    selector = DataDropoutTransformer(regressor(clock).estimator)
    with pytest.raises(TypeError, match="must be an instance of DataDropoutClassifier"):
        estimate_cost(selector, *rows)


def test_cost_reads_well():
    cost = Cost(6, 9000.0, {"round_one": 7100.0, "scoring": 45.0}, 2.34e9)
    assert str(cost) == (
        "About 2.5 h and 2.3 GB for 6 trainings: 118 min for round one, 45 s for "
        "scoring."
    )
