"""How good is a net that was retrained on the samples a method kept?

For every task and seed the training samples are spoiled in some way (or left alone),
each method says which of them to keep, and the same net is trained from scratch on
those, always from the same fresh initial weights. What counts is the result on test
samples that are clean and that nothing else has seen.

none, oracle
    All samples; the samples that are not spoiled.
data dropout, auto
    ``DataDropoutTransformer`` as it comes, and with ``drop_fraction="auto"``.
random
    As many samples of each class as data dropout drops, at random.
highest loss
    As many samples as data dropout drops, those of the highest loss when held out, at
    the epoch of the lowest held-out loss of the very nets of its round 1.
EL2N
    As many samples as data dropout drops, those of the largest error of the predicted
    probabilities early in training (arXiv:2107.07075), mean of five nets.
cleanlab
    ``CleanLearning`` around the same net, as it comes.
cleanlab, our epoch
    Its ``find_label_issues`` on the held-out probabilities "highest loss" takes.
literal rule
    That of the Data Dropout paper: one net, trained to the end; every sample whose
    influence on the training loss of a fifth of the samples is negative is dropped.

Every result is a line of ``results.jsonl`` in ``--cache``, written as it comes: a
killed run resumes, more seeds add to what is there, and several processes may work on
different seeds or tasks of one cache. Delete the file after a change to a task or a
method. Tables of everything in it are printed at the end, or at once with ``--table``,
and ``--output`` gets the same as JSON. Rivals that are not installed get a line that
says so; ``pip install sk_datadrop[bench]`` brings them.
"""

import argparse
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from importlib import import_module
from pathlib import Path
from time import perf_counter

import _peers
import numpy as np
import torch
from _peers import CannotAnswer
from fidelity import Journal, cut_patches, mnist, save_results
from scipy import stats
from scipy.special import softmax
from skimage import data
from sklearn.base import clone
from sklearn.datasets import load_digits, make_friedman1
from sklearn.metrics import accuracy_score, log_loss
from sklearn.model_selection import KFold, StratifiedKFold, train_test_split
from skorch import NeuralNetClassifier, NeuralNetRegressor
from skorch.callbacks import Callback, LRScheduler
from skorch.utils import to_numpy
from torch import nn

from sk_datadrop import DataDropoutTransformer, influence_scores
from sk_datadrop._samples import Samples
from sk_datadrop._training import Recipe, seeded, train
from sk_datadrop.datasets import corrupt_targets, flip_labels
from sk_datadrop.metrics import mean_squared_error, peak_signal_noise_ratio, r2_score
from sk_datadrop.nets import DnCNN, SmallCNN

FIRST_FINAL_SEED = 10_000
"""The nets compared share no seed with those that chose the samples."""

N_FOLDS = 5
N_EARLY_NETS = 5
RARE_SHARE = 1 / 20
GROSS_ERROR = 20.0
CENTIMETRES_PER_INCH = 2.54


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="task", help="by their full name")
    parser.add_argument("--seeds", type=int, default=5, help="repetitions")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--tasks", default="", help="only names this pattern is in")
    parser.add_argument("--methods", default="", help="only names this pattern is in")
    parser.add_argument("--quick", action="store_true", help="tiny, to see it run")
    parser.add_argument("--table", action="store_true", help="train nothing")
    parser.add_argument("--cache", type=Path, default=Path("retrain-cache"))
    parser.add_argument("--output", type=Path, help="JSON file for the results")
    parsed = parser.parse_args(arguments)
    if unknown := set(parsed.names) - set(TASKS):
        parser.error(f"tasks are {', '.join(TASKS)}; got {unknown}")
    return parsed


# Tasks: samples, which of them are spoiled, and a net.


@dataclass(frozen=True)
class Problem:
    """One task with the samples that one seed draws."""

    net: NeuralNetClassifier | NeuralNetRegressor
    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    spoiled: np.ndarray
    """Which training samples, bool."""
    seed: int
    focus: int | None = None
    """The class that something special was done to."""

    @property
    def is_classifier(self) -> bool:
        return isinstance(self.net, NeuralNetClassifier)

    @property
    def labels(self) -> np.ndarray:
        """Classes as given; one for all samples of a regression."""
        y = self.train[1]
        return y if self.is_classifier else np.zeros(len(y), dtype=int)

    def rows(self, which) -> tuple[np.ndarray, np.ndarray]:
        X, y = self.train
        return X[which], y[which]


def digit_net(max_epochs, batch_size=128, **module):
    return NeuralNetClassifier(
        SmallCNN,
        **{f"module__{name}": value for name, value in module.items()},
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=0.003,
        max_epochs=max_epochs,
        batch_size=batch_size,
        iterator_train__shuffle=True,
        iterator_valid__batch_size=500,
        # Halves the spread of one training to the next.
        callbacks=[LRScheduler("CosineAnnealingLR", T_max=max_epochs)],
        train_split=None,
        verbose=0,
    )


def split_rows(X, y, n_train, n_test, seed):
    """Training and test samples, in the order that the seed gives."""
    order = np.random.default_rng(seed).permutation(len(X))
    train, test = order[:n_train], order[n_train:][:n_test]
    return (X[train], y[train]), (X[test], y[test])


def mnist_problem(seed, quick, *, spoil, n_train=2500, epochs=15, focus=None, **module):
    """Digits to train on, and all others to test; of 14 x 14 pixels, to save time."""
    if quick:
        n_train, epochs = 200, 2
    X, y = mnist()
    X = X.reshape(len(X), 1, 14, 2, 14, 2).mean(axis=(3, 5))
    train, test = split_rows(X, y, n_train, 100 if quick else len(y) - n_train, seed)
    X, y, spoiled = spoil(*train, seed)
    net = digit_net(epochs, 32, channels=(8, 16), **module)
    return Problem(net, (X, y), test, spoiled, seed, focus)


def digits_problem(seed, quick, *, spoil):
    images, y = load_digits(return_X_y=True)
    X = (images / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    train, test = split_rows(X, y, *((150, 100) if quick else (1297, 500)), seed)
    X, y, spoiled = spoil(*train, seed)
    net = digit_net(2 if quick else 30, 32, channels=(8, 16), n_hidden=32)
    return Problem(net, (X, y), test, spoiled, seed)


@cache
def signals():
    """5,000 signals of ten classes, (5000, 1, 40), and their classes."""
    try:
        from mnist1d.data import make_dataset
    except ImportError as error:
        raise CannotAnswer("mnist1d is not installed") from error
    made = make_dataset()
    X = np.concatenate([made["x"], made["x_test"]]).astype(np.float32)
    return X[:, None], np.concatenate([made["y"], made["y_test"]]).astype(np.int64)


def signals_problem(seed, quick, *, spoil):
    with seeded(seed, "cpu"):
        X, y = signals()
    train, test = split_rows(X, y, *((150, 100) if quick else (2500, 2500)), seed)
    X, y, spoiled = spoil(*train, seed)
    net = digit_net(2 if quick else 30, 32, channels=(16, 32), n_dims=1)
    return Problem(net, (X, y), test, spoiled, seed)


class TableNet(nn.Module):
    """Two hidden layers and one output, (n_samples,)."""

    def __init__(self, n_features=10, width=64):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(n_features, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, 1),
        )

    def forward(self, X):
        return self.layers(X).squeeze(-1)


def table_problem(seed, quick, *, spoil):
    """Friedman's function, of about mean 14 and standard deviation 5."""
    n_train, n_test = (150, 100) if quick else (2000, 1000)
    X, y = make_friedman1(n_train + n_test, noise=1.0, random_state=seed)
    X = X.astype(np.float32) - 0.5
    y_train, spoiled = spoil(y[:n_train], seed)
    net = NeuralNetRegressor(
        TableNet,
        optimizer=torch.optim.Adam,
        lr=0.003,
        max_epochs=2 if quick else 30,
        batch_size=128,
        iterator_train__shuffle=True,
        iterator_valid__batch_size=500,
        train_split=None,
        verbose=0,
    )
    train, test = (X[:n_train], scaled(y_train)), (X[n_train:], scaled(y[n_train:]))
    return Problem(net, train, test, spoiled, seed)


def scaled(y):
    return ((y - 14) / 5).astype(np.float32)


def denoising_problem(seed, quick, *, kind=None, rate=0.2):
    """Noisy patches of photographs; those to test on are of other photographs."""
    n_train, n_test, size = (60, 30, 12) if quick else (700, 300, 24)
    rng = np.random.default_rng(seed)
    seen = [data.astronaut(), data.coffee(), data.chelsea()]
    y = cut_patches(seen, n_train, size, rng)
    y_test = cut_patches([data.camera(), data.coins()], n_test, size, rng)
    X, X_test = add_noise(y, rng), add_noise(y_test, rng)
    spoiled = np.zeros(n_train, dtype=bool)
    if kind is not None:
        y, spoiled = corrupt_targets(y, rate, kind=kind, random_state=seed)
    epochs = 2 if quick else 15
    net = NeuralNetRegressor(
        DnCNN,
        module__depth=4,
        module__width=12,
        optimizer=torch.optim.Adam,
        lr=0.004,
        max_epochs=epochs,
        batch_size=16,
        iterator_train__shuffle=True,
        iterator_valid__batch_size=256,
        callbacks=[LRScheduler("CosineAnnealingLR", T_max=epochs)],
        train_split=None,
        verbose=0,
    )
    return Problem(net, (X, y), (X_test, y_test), spoiled, seed)


def add_noise(images, rng):
    return images + 25 / 255 * rng.standard_normal(images.shape, dtype=np.float32)


# Ways to spoil: (X, y, seed) -> X, y as given, which samples; for tables without X.


def flip(X, y, seed, *, rate, kind="symmetric"):
    return X, *flip_labels(y, rate, kind=kind, random_state=seed)


def add_gross_errors(y, seed, *, rate):
    """Far too high or far too low, of equal chance."""
    spoiled = random_rows(len(y), rate, seed)
    signs = np.random.default_rng(2000 + seed).choice([-1, 1], len(y))
    return y + GROSS_ERROR * signs * spoiled, spoiled


def mistake_unit(y, seed, *, rate):
    spoiled = random_rows(len(y), rate, seed)
    return np.where(spoiled, CENTIMETRES_PER_INCH * y, y), spoiled


def random_rows(n_rows, rate, seed) -> np.ndarray:
    """Mask of a share of the samples."""
    order = np.random.default_rng(1000 + seed).permutation(n_rows)
    return order < round(rate * n_rows)


def spoil_one_class(X, y, seed, *, label):
    """Half of the samples of one class get random other labels."""
    rows = np.flatnonzero(y == label)
    chosen = np.random.default_rng(1000 + seed).permutation(rows)[: len(rows) // 2]
    wrong, spoiled = y.copy(), np.isin(np.arange(len(y)), chosen)
    others = np.setdiff1d(np.unique(y), label)
    wrong[chosen] = np.random.default_rng(2000 + seed).choice(others, len(chosen))
    return X, wrong, spoiled


def make_rare_and_flip(X, y, seed, *, label, rate):
    """Keep a twentieth of one class, and confuse labels as often as classes occur.

    Wrong labels that are uniform over the classes would outnumber the right ones of
    the rare class by five to one.
    """
    rng = np.random.default_rng(1000 + seed)
    rare = np.flatnonzero(y == label)
    n_kept = max(N_FOLDS, round(RARE_SHARE * len(rare)))
    kept = np.setdiff1d(np.arange(len(y)), rng.permutation(rare)[n_kept:])
    X, y = X[kept], y[kept]
    wrong, spoiled = y.copy(), random_rows(len(y), rate, 2000 + seed)
    for row in np.flatnonzero(spoiled):
        wrong[row] = rng.choice(y[y != y[row]])
    return X, wrong, spoiled


TWENTY = partial(flip, rate=0.2)
CLEAN = partial(flip, rate=0.0)
PAIRS = partial(flip, rate=0.3, kind="pair")
TASKS: dict[str, Callable[..., Problem]] = {
    "clean": partial(mnist_problem, spoil=CLEAN),
    "symmetric 10 %": partial(mnist_problem, spoil=partial(flip, rate=0.1)),
    "symmetric 20 %": partial(mnist_problem, spoil=TWENTY),
    "symmetric 40 %": partial(mnist_problem, spoil=partial(flip, rate=0.4)),
    "pair 30 %": partial(mnist_problem, spoil=PAIRS),
    "one class half wrong": partial(
        mnist_problem, spoil=partial(spoil_one_class, label=3), focus=3
    ),
    "imbalance 1:20, symmetric 20 %": partial(
        mnist_problem,
        spoil=partial(make_rare_and_flip, label=8, rate=0.2),
        n_train=4000,
        focus=8,
    ),
    "clean, BatchNorm": partial(mnist_problem, spoil=CLEAN, batch_norm=True),
    "symmetric 20 %, BatchNorm": partial(mnist_problem, spoil=TWENTY, batch_norm=True),
    "pair 30 %, BatchNorm": partial(mnist_problem, spoil=PAIRS, batch_norm=True),
    "symmetric 20 %, memorised": partial(
        mnist_problem, spoil=TWENTY, n_train=800, epochs=60, n_hidden=256
    ),
    "digits clean": partial(digits_problem, spoil=CLEAN),
    "digits symmetric 20 %": partial(digits_problem, spoil=TWENTY),
    "mnist1d clean": partial(signals_problem, spoil=CLEAN),
    "mnist1d symmetric 20 %": partial(signals_problem, spoil=TWENTY),
    "table clean": partial(table_problem, spoil=partial(add_gross_errors, rate=0.0)),
    "table, 10 % gross errors": partial(
        table_problem, spoil=partial(add_gross_errors, rate=0.1)
    ),
    "table, 10 % wrong unit": partial(
        table_problem, spoil=partial(mistake_unit, rate=0.1)
    ),
    "denoising clean": denoising_problem,
    **{
        f"denoising {kind}": partial(denoising_problem, kind=kind)
        for kind in ("gamma", "shift", "invert", "blur")
    },
}


# Round 1, whose nets several methods share.


class HeldOutOutputs(Callback):
    """Keep the outputs for the held-out samples at the epoch of their lowest loss."""

    def on_epoch_end(self, net, dataset_valid=None, **kwargs):
        if net.history[-1, "valid_loss_best"]:
            rows = dataset_valid.X, dataset_valid.y
            self.outputs_ = to_numpy(net.evaluation_step(rows))


class CountTrainings(Callback):
    """Count how often another library trains the net."""

    total = 0

    def on_train_begin(self, net, **kwargs):
        CountTrainings.total += 1


def with_callback(net, callback):
    return clone(net).set_params(callbacks=[*(net.callbacks or []), callback])


@dataclass
class Context:
    """A problem and what its methods share."""

    problem: Problem
    memory: Path
    outcomes: dict[bytes, dict] = field(default_factory=dict)
    """Results of the nets trained so far, by the samples kept."""

    @cached_property
    def folds(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Folds of ``cv=5``, made here so that their held-out samples are known."""
        problem = self.problem
        kind = StratifiedKFold if problem.is_classifier else KFold
        folds = kind(N_FOLDS, shuffle=True, random_state=2000 + problem.seed)
        return list(folds.split(problem.train[0], problem.labels))

    def data_dropout(self, drop_fraction) -> DataDropoutTransformer:
        selector = DataDropoutTransformer(
            with_callback(self.problem.net, HeldOutOutputs()),
            drop_fraction=drop_fraction,
            cv=self.folds,
            memory=str(self.memory),
            random_state=self.problem.seed,
        )
        return selector.fit(*self.problem.train)

    @cached_property
    def round_one(self) -> DataDropoutTransformer:
        return self.data_dropout("harmful")

    @cached_property
    def held_out_outputs(self) -> np.ndarray:
        """Outputs of each sample by the net that did not see it, at its best epoch."""
        y = self.problem.train[1]
        nets = self.round_one.round_one_estimators_
        parts = [dict(net.callbacks_)["HeldOutOutputs"].outputs_ for net in nets]
        outputs = np.empty((len(y), *parts[0].shape[1:]), dtype=parts[0].dtype)
        for (_, held_out), part in zip(self.folds, parts, strict=True):
            outputs[held_out] = part
        return outputs

    def result_of(self, kept) -> dict:
        """Train on the samples kept, from weights that no method has seen."""
        key = np.packbits(kept).tobytes()
        if key not in self.outcomes:
            self.outcomes[key] = final_training(self.problem, kept)
        return self.outcomes[key]


def final_training(problem, kept) -> dict:
    start = perf_counter()
    recipe = Recipe("final training", FIRST_FINAL_SEED + problem.seed)
    net = train(problem.net, Samples(*problem.rows(kept)), recipe)
    seconds = perf_counter() - start
    score, loss = evaluate(net, *problem.test)
    on_own, _ = evaluate(net, *problem.rows(kept))
    return {
        "score": score,
        "loss": loss,
        "score on own rows": on_own,
        "seconds of final training": seconds,
    }


OUTCOME = ("score", "loss", "score on own rows", "seconds of final training")


def evaluate(net, X, y) -> tuple[float, float]:
    """Accuracy and log loss, or R2 (of images PSNR in dB) and mean squared error."""
    if isinstance(net, NeuralNetClassifier):
        probabilities = net.predict_proba(X).astype(np.float64)
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        labels = np.arange(probabilities.shape[1])
        accuracy = accuracy_score(y, probabilities.argmax(1))
        return float(accuracy), float(log_loss(y, probabilities, labels=labels))
    predicted = net.predict(X)
    score = peak_signal_noise_ratio if y.ndim > 1 else r2_score
    return score(y, predicted), mean_squared_error(y, predicted)


# Methods.


@dataclass(frozen=True)
class Selection:
    """Samples that a method keeps, and what it took to choose them."""

    kept: np.ndarray
    trainings: float = 0
    seconds: float = 0.0


def keep_all(context):
    return Selection(np.ones(len(context.problem.spoiled), dtype=bool))


def keep_unspoiled(context):
    return Selection(~context.problem.spoiled)


def selection_of(selector) -> Selection:
    # Splits from the cache report the seconds of the run that computed them.
    seconds = sum(selector.timings_.values())
    n_trainings = len(selector.round_one_estimators_)
    if hasattr(selector, "cv_results_"):
        # Column 0, which drops nothing, holds the nets of round 1.
        n_trainings += selector.cv_results_["objective"][:, 1:].size
    return Selection(selector.sample_mask_, n_trainings, seconds)


def data_dropout(context):
    return selection_of(context.round_one)


def auto(context):
    return selection_of(context.data_dropout("auto"))


def random(context):
    rng = np.random.default_rng([context.problem.seed, 3])
    kept, labels = context.round_one.sample_mask_.copy(), context.problem.labels
    for label in np.unique(labels):
        kept[labels == label] = rng.permutation(kept[labels == label])
    return Selection(kept)


def without_highest(context, scores) -> np.ndarray:
    """Mask that drops as many samples as data dropout does."""
    kept = np.ones(len(scores), dtype=bool)
    kept[np.argsort(-scores, kind="stable")[: context.round_one.n_dropped_]] = False
    return kept


def highest_loss(context):
    row_losses = _peers.make_row_losses(context.problem.is_classifier)
    outputs, y = map(
        torch.as_tensor, (context.held_out_outputs, context.problem.train[1])
    )
    if not context.problem.is_classifier:
        outputs, y = outputs.reshape(len(y), -1), y.reshape(len(y), -1)
    kept = without_highest(context, row_losses(outputs, y).numpy())
    return Selection(kept, N_FOLDS, context.round_one.timings_["round_one"])


def el2n(context):
    problem = context.problem
    if not problem.is_classifier:
        raise CannotAnswer("classification only")
    start = perf_counter()
    epochs = max(1, problem.net.max_epochs // 5)
    early = clone(problem.net).set_params(max_epochs=epochs)
    scores = np.zeros(len(problem.spoiled))
    for number in range(N_EARLY_NETS):
        seed = 20_000 + N_EARLY_NETS * problem.seed + number
        net = train(early, Samples(*problem.train), Recipe("EL2N", seed))
        scores += errors_of_probabilities(net, *problem.train)
    return Selection(
        without_highest(context, scores),
        N_EARLY_NETS * epochs / problem.net.max_epochs,
        perf_counter() - start,
    )


def errors_of_probabilities(net, X, y) -> np.ndarray:
    probabilities = net.predict_proba(X)
    return np.linalg.norm(probabilities - np.eye(probabilities.shape[1])[y], axis=1)


def cleanlab(context):
    problem = context.problem
    if problem.is_classifier:
        library = import_module("cleanlab.classification")
        options = {"find_label_issues_kwargs": {"n_jobs": 1}}
    elif problem.train[1].ndim == 1:
        library, options = import_module("cleanlab.regression.learn"), {}
    else:
        raise CannotAnswer("labels and 1-D targets only")
    start, before = perf_counter(), CountTrainings.total
    net = with_callback(problem.net, CountTrainings())
    with seeded(problem.seed, "cpu"):
        learner = library.CleanLearning(net, seed=problem.seed, **options)
        issues = learner.find_label_issues(*problem.train)["is_label_issue"]
    return Selection(
        ~np.asarray(issues, dtype=bool),
        CountTrainings.total - before,
        perf_counter() - start,
    )


def cleanlab_our_epoch(context):
    if not context.problem.is_classifier:
        raise CannotAnswer("classification only")
    find_label_issues = import_module("cleanlab.filter").find_label_issues
    probabilities = softmax(context.held_out_outputs.astype(np.float64), axis=1)
    issues = find_label_issues(context.problem.train[1], probabilities, n_jobs=1)
    return Selection(~issues, N_FOLDS, context.round_one.timings_["round_one"])


def literal_rule(context):
    problem, start = context.problem, perf_counter()
    scored, held_out = train_test_split(
        np.arange(len(problem.spoiled)),
        test_size=1 / N_FOLDS,
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
        random_state=problem.seed,
    )
    kept = np.ones(len(problem.spoiled), dtype=bool)
    kept[scored[result.influence < 0]] = False
    return Selection(kept, 1, perf_counter() - start)


METHODS: dict[str, Callable[[Context], Selection]] = {
    "none": keep_all,
    "random": random,
    "highest loss": highest_loss,
    "EL2N": el2n,
    "cleanlab": cleanlab,
    "cleanlab, our epoch": cleanlab_our_epoch,
    "literal rule": literal_rule,
    "data dropout": data_dropout,
    "auto": auto,
    "oracle": keep_unspoiled,
}


# Runs.


def run_seed(task, seed, methods, journal, arguments) -> None:
    """All methods that have no line yet."""
    keys = {name: f"{task}; seed {seed}; {name}" for name in methods}
    missing = {name: key for name, key in keys.items() if key not in journal.values}
    if not missing:
        return
    try:
        problem = TASKS[task](seed, arguments.quick)
    except CannotAnswer as error:
        print(f"{task}: left out, {error}")
        return
    context = Context(problem, arguments.cache / "splits")
    if known := journal.values.get(f"{task}; seed {seed}; none"):
        everything = np.packbits(keep_all(context).kept).tobytes()
        context.outcomes[everything] = {name: known[name] for name in OUTCOME}
    for name, key in missing.items():
        selection, note = _peers.answer(METHODS[name], context)
        if selection is None:
            print(f"{key}: left out, {note}", flush=True)
            continue
        head = {"task": task, "seed": seed, "method": name}
        entry = journal.get(key, lambda h=head, s=selection: h | summary(context, s))
        print_line(key, entry)


def summary(context, selection) -> dict:
    """Return the results of a selection and of the net trained on it."""
    problem, dropped = context.problem, ~selection.kept
    result = context.result_of(selection.kept)
    hits, n_spoiled = int(np.sum(dropped & problem.spoiled)), int(problem.spoiled.sum())
    seconds = selection.seconds + result["seconds of final training"]
    return {
        **result,
        "rows": len(dropped),
        "spoiled": n_spoiled,
        "dropped": int(dropped.sum()),
        "precision": hits / int(dropped.sum()) if dropped.any() else None,
        "recall": hits / n_spoiled if n_spoiled else None,
        "trainings": selection.trainings + 1,
        "seconds": seconds,
        "clean rows lost": clean_rows_lost(problem, dropped),
        "focus": problem.focus,
    }


def clean_rows_lost(problem, dropped) -> list[float] | None:
    """Share of the clean samples of each class that were dropped."""
    if not problem.is_classifier:
        return None
    clean = ~problem.spoiled
    return [
        float(np.mean(dropped[clean & (problem.labels == label)]))
        for label in np.unique(problem.labels[clean])
    ]


def print_line(key, entry):
    found = "".join(
        f", {name} {entry[name]:.3f}"
        for name in ("precision", "recall")
        if entry[name] is not None
    )
    print(
        f"{key}: score {entry['score']:.4f}, loss {entry['loss']:.4f}, dropped "
        f"{entry['dropped']} of {entry['rows']}{found}, {entry['trainings']:g} "
        f"trainings, {entry['seconds']:.1f} s",
        flush=True,
    )


# Tables.

RIVALS = [name for name in METHODS if name not in ("data dropout", "oracle")]
Lines = dict[int, dict]
"""Results of one method on one task, by seed."""


def by_task(journal) -> dict[str, dict[str, Lines]]:
    """Lines by task and method, in the order of `TASKS` and `METHODS`."""
    found: dict = defaultdict(lambda: defaultdict(dict))
    for line in journal.values.values():
        found[line["task"]][line["method"]][line["seed"]] = line
    return {
        task: {name: found[task][name] for name in METHODS if name in found[task]}
        for task in TASKS
        if task in found
    }


def mean_of(lines: Lines, name):
    """Mean over the seeds, NaN where none has the figure."""
    values = [line[name] for line in lines.values() if line[name] is not None]
    return float(np.mean(values)) if values else np.nan


def paired_interval(first: Lines, second: Lines, name) -> tuple[float, float]:
    """Mean of first minus second and half of its 95 % interval, or NaN."""
    common = sorted(set(first) & set(second))
    if not common:
        return np.nan, np.nan
    differences = np.array([first[s][name] - second[s][name] for s in common])
    if len(common) < 2:
        return float(differences.mean()), np.nan
    half = stats.sem(differences) * stats.t.ppf(0.975, len(common) - 1)
    return float(differences.mean()), float(half)


def gap_closed(methods: dict[str, Lines], method, name) -> float:
    """Share of the way from none to oracle, NaN where that is no way up."""
    if not {method, "none", "oracle"} <= set(methods):
        return np.nan
    seeds = set(methods[method]) & set(methods["none"]) & set(methods["oracle"])
    if not seeds:
        return np.nan
    none, ours, oracle = (
        np.mean([methods[m][s][name] for s in seeds])
        for m in ("none", method, "oracle")
    )
    gap = oracle - none if name == "score" else none - oracle
    return float((ours - none) / (oracle - none)) if gap > 0 else np.nan


def as_markdown(title, header, rows) -> str:
    lines = [f"### {title}", "", "| " + " | ".join(header) + " |"]
    lines.append("|---" * len(header) + "|")
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def table_by_method(title, results, cell) -> str:
    """Return a table with a row per task and a column per method."""
    rows = [
        [task, *(cell(methods[m]) if m in methods else "" for m in METHODS)]
        for task, methods in results.items()
    ]
    return as_markdown(title, ["task", *METHODS], rows)


def dropped_cell(lines) -> str:
    cell = f"{mean_of(lines, 'dropped'):.0f}"
    rates = [mean_of(lines, name) for name in ("precision", "recall")]
    return cell + "".join("" if np.isnan(rate) else f" {rate:.2f}" for rate in rates)


def cost_cell(lines) -> str:
    seconds = np.median([line["seconds"] for line in lines.values()])
    return f"{mean_of(lines, 'trainings'):.3g}, {seconds:.0f} s"


def comparison_table(title, results, name) -> str:
    """Data dropout against the others, by one figure."""
    header = ["task", "gap closed", "gap closed by auto"]
    header += [f"v {rival}" for rival in RIVALS]
    rows = []
    for task, methods in results.items():
        ours = methods.get("data dropout", {})
        shares = [gap_closed(methods, m, name) for m in ("data dropout", "auto")]
        cells = ["" if np.isnan(share) else f"{share:.0%}" for share in shares]
        cells += [interval_cell(ours, methods.get(rival, {}), name) for rival in RIVALS]
        rows.append([task, *cells])
    return as_markdown(title, header, rows)


def interval_cell(ours: Lines, theirs: Lines, name) -> str:
    """Bold where zero is outside."""
    mean, half = paired_interval(ours, theirs, name)
    if np.isnan(mean):
        return ""
    cell = f"{mean:+.3g}" + ("" if np.isnan(half) else f" ± {half:.2g}")
    return f"**{cell}**" if abs(mean) > half else cell


def focus_table(results) -> str:
    """Clean samples lost by the class that something was done to, and by the others."""
    chosen = {}
    for task, methods in results.items():
        focus = next(iter(next(iter(methods.values())).values()))["focus"]
        if focus is not None:
            chosen[f"{task}: class {focus} / others"] = methods
    if not chosen:
        return ""
    return table_by_method("Share of clean rows lost", chosen, focus_cell)


def focus_cell(lines) -> str:
    lost = np.mean([line["clean rows lost"] for line in lines.values()], axis=0)
    focus = next(iter(lines.values()))["focus"]
    return f"{lost[focus]:.1%} / {np.delete(lost, focus).mean():.1%}"


def task_table(results) -> str:
    rows = []
    for task, methods in results.items():
        lines = next(iter(methods.values()))
        line = next(iter(lines.values()))
        fitted = (
            mean_of(methods["none"], "score on own rows") if "none" in methods else 0
        )
        seeds = str(max(map(len, methods.values())))
        rows.append(
            [task, seeds, str(line["rows"]), str(line["spoiled"]), f"{fitted:.4f}"]
        )
    header = ["task", "seeds", "rows", "spoiled", "score of none on its own rows"]
    return as_markdown("Tasks", header, rows)


def tables(results) -> str:
    return "\n".join(
        [
            task_table(results),
            table_by_method(
                "Score on clean test rows: accuracy, R2 or PSNR (dB)",
                results,
                lambda lines: f"{mean_of(lines, 'score'):.4f}",
            ),
            table_by_method(
                "Log loss or mean squared error",
                results,
                lambda lines: f"{mean_of(lines, 'loss'):.4g}",
            ),
            table_by_method("Dropped, precision, recall", results, dropped_cell),
            comparison_table(
                "Score: data dropout minus others (positive is better)",
                results,
                "score",
            ),
            comparison_table(
                "Loss: data dropout minus others (negative is better)", results, "loss"
            ),
            focus_table(results),
            table_by_method("Trainings, median seconds", results, cost_cell),
        ]
    )


def main(arguments=None):
    arguments = parse_arguments(arguments)
    torch.set_num_threads(1)
    path = arguments.cache / f"results{'-quick' * arguments.quick}.jsonl"
    tasks = [
        name
        for name in arguments.names or TASKS
        if re.search(arguments.tasks, name) and not arguments.table
    ]
    methods = [name for name in METHODS if re.search(arguments.methods, name)]
    journal = Journal(path)
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        for task in tasks:
            run_seed(task, seed, methods, journal, arguments)
    # Read again: others may write to the same file.
    results = by_task(Journal(path))
    if results:
        print(f"\n{tables(results)}")
    if arguments.output:
        save_results(arguments.output, as_entries(results))


def as_entries(results) -> dict:
    """Return the content of the JSON file: per task, lists of lines by method."""
    return {
        task: {
            "environment": _peers.environment(),
            "lines": {name: list(lines.values()) for name, lines in methods.items()},
        }
        for task, methods in results.items()
    }


if __name__ == "__main__":
    main()
