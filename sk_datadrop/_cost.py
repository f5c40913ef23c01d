"""What a fit will cost, told by a small one.

A split is trained for two epochs on a few of the rows, and scored a few times; what
the fit takes follows from how time grows with the rows. Both parts are linear in them.
What a split holds at a time does not depend on their number, save copies of the rows.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, nan
from time import perf_counter

import numpy as np
import torch
from sklearn.base import clone
from skorch.callbacks import (
    Callback,
    Checkpoint,
    LoadInitState,
    TrainEndCheckpoint,
)

from sk_datadrop._checks import check_kind
from sk_datadrop._estimators import DataDropoutClassifier, DataDropoutRegressor
from sk_datadrop._ranks import module_of
from sk_datadrop._rounds import train_round
from sk_datadrop._rows import DatasetRows
from sk_datadrop._views import score_round
from sk_datadrop._workers import n_processes

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_MIN_EPOCH_SECONDS = 1.0
"""A shorter epoch is measured again, on more rows."""

_MAX_SAMPLE_FACTOR = 8
"""These are at most so many times the rows asked for."""

_SUBSAMPLE_FACTOR = 8
"""Scoring is also timed on so many times fewer rows, to see what a row adds."""

_MIN_TRAIN_ROWS = 256
"""These are at least so many training rows.

The curvature is that of as many by default, and would cost less with fewer.
"""

_MIN_HELD_OUT_ROWS = 32
"""And at least so many held-out rows, to make the groups of views from."""

_N_REPEATS = 3
"""Scoring is timed so often; the fastest time is the one that nothing else slowed."""

_N_EPOCHS = 2
"""The small training has so many epochs.

The last one is timed, as the first also pays for what is made only once.
"""


@dataclass(frozen=True)
class Cost:
    """What a fit is expected to cost.

    Printed, it is a sentence.

    Parameters
    ----------
    n_trainings : int
        Nets trained from scratch: one a split, round 2, and two a split for the trials
        of "auto" (none where it finds nothing to drop).
    seconds : float
        From start to end, with splits and trials side by side as `n_jobs` has them:
        that of the stages, and of the checks before them.
    seconds_per_stage : dict of str to float
        Seconds of work by stage, as in ``timings_``.
    memory : float
        Bytes of main memory that the process holds at its peak, all in all. NaN on
        Windows.

    See Also
    --------
    estimate_cost : Makes one.

    Examples
    --------
    >>> from sk_datadrop import Cost
    >>> print(Cost(6, 400.0, {"round_one": 310.0, "round_two": 90.0}, 2e9))
    About 6.7 min and 2.0 GB for 6 trainings: 5.2 min for round one, 90 s for round two.
    """

    n_trainings: int
    seconds: float
    seconds_per_stage: dict[str, float]
    memory: float

    def __str__(self) -> str:
        stages = ", ".join(
            f"{_duration(seconds)} for {name.replace('_', ' ')}"
            for name, seconds in self.seconds_per_stage.items()
        )
        return (
            f"About {_duration(self.seconds)} and {self.memory / 1e9:.1f} GB for "
            f"{self.n_trainings} trainings: {stages}."
        )


def estimate_cost(
    estimator, X, y=None, *, X_val=None, y_val=None, n_samples=512, **params
) -> Cost:
    """Predict what ``fit`` will cost, by a small fit on some of the rows.

    Takes about as long as three epochs on `n_samples` rows, or a few seconds. What it
    does not see: callbacks that stop a training early, splits that `memory` knows,
    machines that slow down when busy, and systems that are harder to solve for a net
    trained to the end.

    Parameters
    ----------
    estimator : DataDropoutClassifier or DataDropoutRegressor
        Not fitted itself.
    X : array-like of shape (n_samples, ...) or torch.utils.data.Dataset
        Rows, as for ``fit``.
    y : array-like of shape (n_samples,) or (n_samples, ...) or None, default=None
        Targets, as for ``fit``.
    X_val, y_val : array-like, Dataset or None, default=None
        Rows to measure influence on, as for ``fit``.
    n_samples : int, default=512
        Rows to train and score, as many as there are at most, and more where these
        take less than a second. Should be twice the `n_samples` of the curvature, and
        a few batches.
    **params : dict
        ``groups`` and parameters for the ``fit`` of the net, as for ``fit``.

    Returns
    -------
    Cost
        Trainings, seconds and bytes.

    Raises
    ------
    TypeError
        If `estimator` is of another kind.
    ValueError
        If ``fit`` would raise it before any training.

    See Also
    --------
    DataDropoutClassifier.fit : What it predicts.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from skorch import NeuralNetRegressor
    >>> from sk_datadrop import DataDropoutRegressor, estimate_cost
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(200, 3))
    >>> net = NeuralNetRegressor(
    ...     torch.nn.Linear, module__in_features=3, module__out_features=1,
    ... )
    >>> estimate_cost(DataDropoutRegressor(net), X, X.sum(axis=1)).n_trainings
    6
    """
    check_kind("estimator", estimator, DataDropoutClassifier, DataDropoutRegressor)
    model = clone(estimator).set_params(memory=None, random_state=0)
    start = perf_counter()
    problem = model._problem(X, y, X_val, y_val, params)
    checks = perf_counter() - start
    sizes = [
        (
            len(split.train),
            len(problem.validation[0] if problem.validation else split.held_out),
        )
        for split in problem.splits
    ]
    units = _measure(model, problem, n_samples)
    n_epochs = model.estimator.max_epochs
    n_splits, n_workers = len(sizes), n_processes(model.n_jobs)
    training = sum(n_epochs * units.epoch(*size) for size in sizes)
    scoring = sum(units.scoring(*size, n_epochs) for size in sizes)
    stages = {"round_one": training, "scoring": scoring}
    elapsed = _side_by_side(training + scoring, n_splits, n_workers)
    if n_splits == 1 and model.engine is None:
        # It shares out the rows that it scores, though not the system it solves.
        fixed = units.scoring(0, sizes[0][1], n_epochs)
        elapsed -= (scoring - fixed) * (1 - 1 / n_workers)
    n_trials = 0
    if model.drop_fraction == "auto":
        n_trials = 2 * n_splits
        stages["trials"] = 2 * training
        elapsed += _side_by_side(stages["trials"], n_trials, n_workers)
    n_watched = len(problem.validation[0]) if problem.validation else 0
    stages["round_two"] = n_epochs * units.epoch(len(problem.X), n_watched)
    return Cost(
        n_trainings=n_splits + n_trials + 1,
        seconds=checks + elapsed + stages["round_two"],
        seconds_per_stage=stages,
        memory=_peak() + _bytes_of_rows(problem) + n_splits * units.net_bytes,
    )


def _side_by_side(seconds: float, number: int, n_workers: int) -> float:
    """Tell how long calls of equal length take that are `seconds` of work in all."""
    return ceil(number / n_workers) * seconds / number


@dataclass(frozen=True)
class _Units:
    """What the cost of any split follows from.

    Attributes
    ----------
    train, valid : float
        Seconds of an epoch for each row trained on, and held out.
    scoring : callable
        ``scoring(n_train, n_held_out, n_epochs)`` returns seconds.
    net_bytes : float
        Size of the weights and buffers.
    """

    train: float
    valid: float
    scoring: Callable[[int, int, int], float]
    net_bytes: float

    def epoch(self, n_train: int, n_held_out: int) -> float:
        return n_train * self.train + n_held_out * self.valid


class _Stopwatch(Callback):
    """Seconds of the phases of the last epoch."""

    def on_epoch_begin(self, net, **kwargs):
        self.start_ = self.trained_ = perf_counter()
        self.is_training_ = True

    def on_batch_begin(self, net, training=None, **kwargs):
        if self.is_training_ and not training:
            self.is_training_ = False
            self.trained_ = perf_counter()

    def on_epoch_end(self, net, **kwargs):
        self.train_ = self.trained_ - self.start_
        self.valid_ = perf_counter() - self.trained_


def _measure(model, problem, n_samples: int) -> _Units:
    n_samples = max(n_samples, model.estimator.batch_size)
    few = _SmallRound(model, problem, n_samples)
    if few.seconds < _MIN_EPOCH_SECONDS:
        longer = min(_MIN_EPOCH_SECONDS / max(few.seconds, 1e-3), _MAX_SAMPLE_FACTOR)
        few = _SmallRound(model, problem, int(longer * n_samples))
    return _Units(
        train=few.watch.train_ / len(few.train[0]),
        valid=few.watch.valid_ / len(few.held_out[0]),
        scoring=few.measure_scoring(),
        net_bytes=sum(
            value.nbytes
            for value in module_of(few.net).state_dict().values()
            if isinstance(value, torch.Tensor)
        ),
    )


class _SmallRound:
    """A split on some of its rows, trained."""

    def __init__(self, model, problem, n_samples: int) -> None:
        rng = np.random.default_rng(0)
        split = problem.splits[0]
        trained = _some(split.train, n_samples, rng)
        self.train = problem.rows(trained)
        if problem.validation is None:
            self.held_out = problem.rows(_some(split.held_out, n_samples // 2, rng))
        else:
            rows = _some(np.arange(len(problem.validation[0])), n_samples // 2, rng)
            self.held_out = _cut(problem.validation, rows)
        self.score_held_out = problem.validation is None
        self.scoring = model._scoring(len(problem.splits), len(self.held_out[0]))
        self.recorder, self.watch = self.scoring.recorder(), _Stopwatch()
        X, y = self.train
        self.net, self.checkpoints = train_round(
            _without_files(clone(model.estimator)).set_params(max_epochs=_N_EPOCHS),
            X,
            y,
            self.held_out,
            n_checkpoints=self.scoring.n_checkpoints,
            seed=0,
            callbacks=[self.watch, *([self.recorder] if self.recorder else [])],
            fit_params=problem.fit_params_of(trained),
            name="estimate of the cost",
        )

    @property
    def seconds(self) -> float:
        """Of the last epoch."""
        return self.watch.train_ + self.watch.valid_

    def seconds_to_score(self, n_train: int, n_held_out: int) -> float:
        start = perf_counter()
        score_round(
            self.scoring.scorer(self.recorder),
            0,
            self.net,
            self.checkpoints,
            _cut(self.train, slice(n_train)),
            _cut(self.held_out, slice(n_held_out)),
            n_groups=min(self.scoring.n_groups, n_held_out),
            seed=0,
            objective=self.scoring.objective,
            is_classification=self.scoring.is_classification,
            score_held_out=self.score_held_out,
        )
        return perf_counter() - start

    def measure_scoring(self) -> Callable[[int, int, int], float]:
        measure = _seconds_of_replay if self.recorder else _seconds_of_scoring
        sizes = len(self.train[0]), len(self.held_out[0])
        return measure(self.seconds_to_score, *sizes)


def _without_files(net):
    """Leave out the callbacks that write or read files of the user."""
    callbacks = net.callbacks
    if isinstance(callbacks, list):
        unnamed = [cb[1] if isinstance(cb, tuple) else cb for cb in callbacks]
        kinds = Checkpoint, TrainEndCheckpoint, LoadInitState
        callbacks = [
            given
            for given, cb in zip(callbacks, unnamed, strict=True)
            if not isinstance(cb, kinds)
        ]
    return net.set_params(callbacks=callbacks)


def _seconds_of_scoring(seconds, n_train: int, n_held_out: int) -> Callable:
    """Linear in both numbers of rows."""
    fewer = max(n_train // _SUBSAMPLE_FACTOR, min(n_train // 2, _MIN_TRAIN_ROWS), 1)
    fewer_held_out = max(
        n_held_out // _SUBSAMPLE_FACTOR, min(n_held_out, _MIN_HELD_OUT_ROWS)
    )
    sizes = (n_train, n_held_out), (fewer, n_held_out), (n_train, fewer_held_out)
    # In turns, as a machine is slow for a while.
    measured = [[seconds(*size) for size in sizes] for _ in range(_N_REPEATS)]
    whole, of_fewer, of_fewer_held_out = np.min(measured, axis=0)
    per_row = max(whole - of_fewer, 0.0) / max(n_train - fewer, 1)
    per_held_out = max(whole - of_fewer_held_out, 0.0)
    per_held_out /= max(n_held_out - fewer_held_out, 1)
    fixed = max(whole - n_train * per_row - n_held_out * per_held_out, 0.0)
    return lambda n, m, _: fixed + n * per_row + m * per_held_out


def _seconds_of_replay(seconds, n_train: int, n_held_out: int) -> Callable:
    """Linear in the rows that pass in training."""
    per_row = seconds(n_train, n_held_out) / (n_train * _N_EPOCHS)
    return lambda n, m, n_epochs: n * n_epochs * per_row


def _some(rows: np.ndarray, n_rows: int, rng) -> np.ndarray:
    return np.sort(rng.permutation(rows)[:n_rows])


def _cut(rows: tuple, which) -> tuple:
    return rows[0][which], rows[1][which]


def _peak() -> float:
    """Return the largest resident set so far, that of the small fit included."""
    if resource is None:
        return nan
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _bytes_of_rows(problem) -> float:
    """Count the rows that are cut for a split; all were as float32 before."""
    if isinstance(problem.X, DatasetRows):
        return 0
    return problem.X.nbytes + problem.targets.values.nbytes


def _duration(seconds: float) -> str:
    """Say it as people would."""
    unit, size = next(
        (
            (u, s)
            for u, s in (("d", 86400), ("h", 3600), ("min", 60))
            if seconds > 2 * s
        ),
        ("s", 1),
    )
    number = seconds / size
    return f"{number:.1f} {unit}" if number < 10 else f"{number:.0f} {unit}"
