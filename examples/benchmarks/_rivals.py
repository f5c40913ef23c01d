"""Other ways to train on samples some of which are wrong, around the same net.

Some choose the samples to keep, some train on all of them with another criterion, and
some stop in time.
"""

from importlib import import_module

import numpy as np
import torch
from _peers import CannotAnswer
from sklearn.base import clone
from sklearn.model_selection import train_test_split
from skorch.callbacks import Callback
from torch import nn

from sk_datadrop import GaussNewton, InfluenceFunctions, influence_scores
from sk_datadrop._samples import Samples
from sk_datadrop._training import Recipe, seeded, train

HELD_OUT_SHARE = 0.2
THRESHOLD_PERCENTILE = 99


def with_callback(net, callback):
    return clone(net).set_params(callbacks=[*(net.callbacks or []), callback])


# The best epoch.


class BestWeights(Callback):
    """Keep the weights of the epoch of the lowest held-out loss."""

    def on_epoch_end(self, net, **kwargs):
        # Round 2 has no held-out samples.
        if net.history[-1].get("valid_loss_best"):
            state = net.module_.state_dict()
            self.state_ = {name: value.clone() for name, value in state.items()}


def at_best_epoch(net):
    """Put the weights of the best epoch into a net with `BestWeights`; return it."""
    net.module_.load_state_dict(dict(net.callbacks_)["BestWeights"].state_)
    return net


def stopped_early(problem, recipe):
    """Train on four fifths of the samples until the others' loss is lowest."""
    rows, held_out = train_test_split(
        np.arange(len(problem.spoiled)),
        test_size=HELD_OUT_SHARE,
        stratify=problem.labels,
        random_state=recipe.seed,
    )
    net = train(
        with_callback(problem.net, BestWeights()),
        Samples(*problem.rows(rows)),
        recipe,
        validation=Samples(*problem.rows(held_out)),
    )
    return at_best_epoch(net)


# Robust losses.


class GeneralisedCrossEntropy(nn.CrossEntropyLoss):
    """(1 - p^q) / q of the probability of the given label (arXiv:1805.07836).

    It goes from cross-entropy, q -> 0, to the mean absolute error, q = 1. skorch takes
    the outputs for logits, as the base class says.
    """

    def __init__(self, q=0.7):
        super().__init__()
        self.q = q

    def forward(self, outputs, y):
        log_p = torch.log_softmax(outputs, 1).gather(1, y[:, None])
        return -torch.expm1(self.q * log_p).mean() / self.q


# Choices of samples: a mask of those to keep.


class CountRows(Callback):
    """Count the samples of all trainings by another library."""

    total = 0

    def on_train_begin(self, net, y=None, **kwargs):
        CountRows.total += len(y)


def cleanlab(problem) -> tuple[np.ndarray, float]:
    """Ask ``CleanLearning``; return the mask, and how many trainings it took."""
    if problem.is_classifier:
        library = import_module("cleanlab.classification")
        options = {"find_label_issues_kwargs": {"n_jobs": 1}}
    elif problem.train[1].ndim == 1:
        library, options = import_module("cleanlab.regression.learn"), {}
    else:
        raise CannotAnswer("labels and 1-D targets only")
    before = CountRows.total
    net = with_callback(problem.net, CountRows())
    with seeded(problem.seed, "cpu"):
        learner = library.CleanLearning(net, seed=problem.seed, **options)
        issues = learner.find_label_issues(*problem.train)["is_label_issue"]
    n_rows = len(problem.spoiled)
    return ~np.asarray(issues, dtype=bool), (CountRows.total - before) / n_rows


class Margins(Callback):
    """Add up the margins of some samples over the epochs."""

    def __init__(self, X, y):
        self.X = X
        self.y = y

    def on_train_begin(self, net, **kwargs):
        self.total_ = np.zeros(len(self.y))

    def on_epoch_end(self, net, **kwargs):
        logits = net.forward(self.X).double().numpy()
        self.total_ += margins(logits, self.y)


def margins(logits, y) -> np.ndarray:
    """Logit of the given label less the largest of the others, (n_samples,)."""
    given = np.take_along_axis(logits, y[:, None], 1)[:, 0]
    others = logits.copy()
    np.put_along_axis(others, y[:, None], -np.inf, 1)
    return given - others.max(1)


def area_under_margin(problem) -> np.ndarray:
    """Keep samples of a mean margin like that of the 99 % of an extra class.

    The extra class is made of samples drawn at random, so that its label is wrong for
    all of them; other samples in a second training, to judge those as well
    (arXiv:2001.10528).
    """
    if not problem.is_classifier:
        raise CannotAnswer("classification only")
    X, y = problem.train
    n_classes = int(y.max()) + 1
    net = clone(problem.net).set_params(module__n_outputs=n_classes + 1)
    size = len(y) // (n_classes + 1)
    order = np.random.default_rng([problem.seed, 4]).permutation(len(y))
    verdicts = np.full((2, len(y)), np.nan)
    for number, verdict in enumerate(verdicts):
        extra = order[number * size :][:size]
        given = y.copy()
        given[extra] = n_classes
        recorder = Margins(X, given)
        recipe = Recipe("AUM", 20_000 + 2 * problem.seed + number)
        train(net, Samples(X, given), recipe, first=[recorder])
        area = recorder.total_ / net.max_epochs
        verdict[:] = area - np.percentile(area[extra], THRESHOLD_PERCENTILE)
        verdict[extra] = np.nan
    return np.nanmean(verdicts, axis=0) >= 0


def literal_rule(problem) -> np.ndarray:
    """Keep what the Data Dropout paper keeps: influence at the end, of either sign."""
    scored, held_out = train_test_split(
        np.arange(len(problem.spoiled)),
        test_size=HELD_OUT_SHARE,
        stratify=problem.labels,
        random_state=2000 + problem.seed,
    )
    rows = problem.rows(scored)
    net = train(problem.net, Samples(*rows), Recipe("literal rule", problem.seed))
    result = influence_scores(
        net,
        *rows,
        *problem.rows(held_out),
        objective="loss",
        engine=InfluenceFunctions(GaussNewton(damping=0.1, scaling=None)),
        random_state=problem.seed,
    )
    kept = np.ones(len(problem.spoiled), dtype=bool)
    kept[scored[result.influence < 0]] = False
    return kept
