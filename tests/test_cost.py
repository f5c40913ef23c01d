"""The cost of a fit: samples passed forward, stage by stage, not seconds."""

from collections import Counter
from functools import wraps

import pytest
import torch
from conftest import MLP

from sk_datadrop import (
    DataDropoutClassifier,
    DataDropoutRegressor,
    GaussNewton,
    InfluenceFunctions,
    _influence,
    _scores,
    _two_rounds,
    influence_scores,
)

N_EPOCHS = 5


class Counted(MLP):
    """Counts the samples that pass, by the stage of the fit and the mode of the net."""

    stages = ["checks"]
    passed = Counter()

    def forward(self, X):
        mode = ", training mode" if self.training else ""
        Counted.passed[self.stages[-1] + mode] += len(X)
        return super().forward(X)


@pytest.fixture
def passed(monkeypatch):
    """Samples passed forward, by stage."""

    def name(module, function, stage):
        original = getattr(module, function)

        @wraps(original)
        def named(*arguments, **options):
            Counted.stages.append(stage)
            try:
                return original(*arguments, **options)
            finally:
                Counted.stages.pop()

        monkeypatch.setattr(module, function, named)

    name(_two_rounds, "train_watched", "round 1")
    name(_two_rounds, "score", "held-out objective")
    name(_scores, "score", "held-out objective")
    name(_two_rounds, "evaluate", "evaluation")
    name(_two_rounds, "train", "round 2")
    name(_two_rounds, "check_predictions", "check of round 2")
    name(_influence, "check_deterministic", "checks of scoring")
    name(_influence, "warn_of_unused_parameters", "checks of scoring")
    name(_influence, "curvature_operator", "curvature")
    name(_influence, "solve", "products")
    name(_influence, "sample_scores", "scoring pass")
    Counted.passed.clear()
    return Counted.passed


def check(passed, limits):
    """Check that no stage passes more samples than it needs today."""
    grown = [
        f"{stage}: {count} samples were passed, and {limits.get(stage, 0)} were enough"
        for stage, count in passed.items()
        if count > limits.get(stage, 0)
    ]
    assert not grown, "; ".join(grown)
    missing = {stage for stage in limits if "check" not in stage} - set(passed)
    assert not missing, f"nothing was counted of {missing}: have its functions moved?"


def limits_of(n, n_splits, n_trained, *, n_products, n_checks=19, n_directions=1):
    """Return how many samples a fit of `N_EPOCHS` passes, by stage.

    Each of the splits trains on `n_trained` samples and holds out the others. All
    samples are in the mean of the curvature, where there are so few.
    """
    n_held_out = n - n_trained
    return {
        "checks": n_checks,
        "round 1, training mode": n_splits * N_EPOCHS * n_trained,
        "round 1": n_splits * N_EPOCHS * n_held_out,
        "checks of scoring": n_splits * 49,
        # Its scale, and its gradient.
        "held-out objective": n_splits * 2 * n_held_out,
        # Its graphs, their size, whether the loss is convex, and the scale of tensors.
        "curvature": n_splits * (2 * n_trained + 8 + 2 * 16),
        "products": n_splits * n_products * n_trained,
        "scoring pass": n_splits
        * (n_directions * n_trained + max(n_directions - 1, 1) * n_held_out),
        "evaluation": n_splits * n,
        "round 2, training mode": N_EPOCHS * n,
        "check of round 2": n,
    }


@pytest.mark.parametrize("drop_fraction", ["harmful", 0.2])
def test_samples_passed_by_a_classifier(classifier, blobs, passed, drop_fraction):
    classifier.set_params(module=Counted, max_epochs=N_EPOCHS)
    model = DataDropoutClassifier(
        classifier, drop_fraction=drop_fraction, random_state=0
    )
    model.fit(*blobs)
    # Two systems per split: the samples held out are scored by halves of them.
    check(passed, limits_of(90, 3, 60, n_products=11))


def test_samples_passed_by_a_single_split(classifier, blobs, passed):
    classifier.set_params(module=Counted, max_epochs=N_EPOCHS)
    DataDropoutClassifier(classifier, cv=0.2, random_state=0).fit(*blobs)
    check(passed, limits_of(90, 1, 72, n_products=42, n_directions=8))


def test_samples_passed_by_a_regressor(regressor, plane, passed):
    regressor.set_params(module=Counted, max_epochs=N_EPOCHS)
    n = 78
    DataDropoutRegressor(regressor, random_state=0).fit(*(v[:n] for v in plane))
    check(passed, limits_of(n, 3, 52, n_products=25 / 3, n_checks=33))


@pytest.mark.parametrize("n", [45, 90])
@pytest.mark.parametrize("n_checkpoints", [1, 2])
def test_scores_take_one_pass_over_the_samples(
    classifier, blobs, passed, n, n_checkpoints
):
    X, y = blobs
    torch.manual_seed(0)
    classifier.set_params(module=Counted, train_split=None, verbose=0).fit(X, y)
    states = [classifier.module_.state_dict()] * n_checkpoints
    engine = InfluenceFunctions(GaussNewton(n_samples=20))
    passed.clear()
    influence_scores(
        classifier,
        *(X[:n], y[:n], X[:30], y[:30]),
        engine=engine,
        checkpoints=states,
        random_state=0,
    )
    assert passed["scoring pass"] == n_checkpoints * n
    limits = {
        "checks of scoring": 49,
        "held-out objective": 2 * 30,
        "curvature": 2 * 20 + 8 + 2 * 16,
        "products": 5 * 20,
        "scoring pass": n,
    }
    assert passed.pop("checks") <= 6
    check(passed, {stage: n_checkpoints * limit for stage, limit in limits.items()})
