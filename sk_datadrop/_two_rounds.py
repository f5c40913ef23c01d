"""The two rounds: `fit` is the method.

split -> [train, score] per split -> drop -> retrain.
"""

import sys
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from numbers import Integral
from time import perf_counter

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_consistent_length, check_random_state
from sklearn.utils.validation import check_memory
from tqdm.auto import tqdm

from sk_datadrop._checks import check_kind
from sk_datadrop._curvature import Curvature
from sk_datadrop._drop import (
    check_drop_fraction,
    drop_fewer,
    fractions_to_try,
    keep_mask,
    mean_influence,
    one_standard_error,
)
from sk_datadrop._influence import check_autocast
from sk_datadrop._memory import lend_to_main, round_key
from sk_datadrop._objectives import check_objective
from sk_datadrop._ranks import agreed, has_ranks
from sk_datadrop._round_one import (
    NOT_IN_THE_KEY,
    RoundOne,
    Scoring,
    run_round_one,
)
from sk_datadrop._rounds import check_predictions, train
from sk_datadrop._row_selection import BaseRowSelection
from sk_datadrop._rows import (
    DatasetRows,
    in_memory,
    with_own_targets,
    with_targets,
)
from sk_datadrop._solvers import Solver
from sk_datadrop._splits import Split, held_out_splits
from sk_datadrop._trajectory import Trajectory
from sk_datadrop._trials import (
    NOT_IN_THE_KEY_OF_A_TRIAL,
    check_trial_splits,
    held_out_objective,
    kept_in_trial,
    run_trial,
    scales_of,
)
from sk_datadrop._validation import (
    Targets,
    check_is_net,
    of_argument,
    route_fit_params,
    rows_of,
    validation_of_refit,
    warn_of_module_instance,
)
from sk_datadrop._views import Views
from sk_datadrop._workers import n_processes, run_all


class BaseDataDropout(BaseRowSelection, ABC):
    """What classifier and regressor share: all but the targets."""

    _is_classification: bool

    def fit(self, X, y=None, *, X_val=None, y_val=None, **params):
        """Train, score, drop and retrain.

        Everything that can be checked is checked before the first training.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...) or torch.utils.data.Dataset
            Rows: tables (N, D), signals (N, C, L), images (N, C, H, W). Any
            integer or float dtype; cast to float32. A `numpy.memmap`, a data set,
            a :class:`skorch.helper.SliceDataset` or :class:`DatasetRows` is read row
            by row and never held in memory as a whole.
        y : array-like of shape (n_samples,) or (n_samples, ...) or None, default=None
            Labels of any type for a classifier; targets of the shape of the
            net's outputs for a regressor. None takes those of the data set X.
        X_val, y_val : array-like, Dataset or None, default=None
            Rows to measure influence on, instead of `cv`: one split that trains
            on all of X. Never trained on and never dropped.
        **params : dict
            ``groups`` of shape (n_samples,) goes to the ``split`` of `cv`, all else to
            the ``fit`` of the net in both rounds, arrays of n_samples rows cut as X
            is. With metadata routing enabled, what is requested goes where it is
            requested.

        Returns
        -------
        object
            The estimator itself, fitted.

        Raises
        ------
        TypeError
            If `estimator` is not a skorch net.
        ValueError
            If data, parameters, net and criterion do not fit together, before
            any training; or if a training loss becomes NaN or infinite.

        See Also
        --------
        predict : Uses the net of round 2.
        get_support : Which rows were kept.

        Examples
        --------
        >>> import numpy as np, torch
        >>> from skorch import NeuralNetRegressor
        >>> from sk_datadrop import DataDropoutRegressor
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(60, 3))
        >>> y = X @ [1.0, 2.0, 3.0]
        >>> net = NeuralNetRegressor(
        ...     torch.nn.Linear, module__in_features=3, module__out_features=1,
        ...     lr=0.1, verbose=0,
        ... )
        >>> model = DataDropoutRegressor(net, cv=2, random_state=0).fit(X, y)
        >>> len(model.round_one_estimators_), model.influence_.shape
        (2, (60,))
        """
        # Of another fit: its net must not go with these classes, should this one fail.
        for name in ("estimator_", "cv_results_"):
            self.__dict__.pop(name, None)
        problem = self._problem(X, y, X_val, y_val, params)
        with self._progress_bar(len(problem.splits) + 1) as bar:
            self._find_harmful(problem, bar)
            self._retrain(problem, bar)
        return self

    def _problem(self, X, y, X_val, y_val, params) -> "_Problem":
        """Check everything, before any training."""
        self._check_parameters()
        fit_params, split_params = route_fit_params(self, params)
        X, targets, validation = self._check_data(X, y, X_val, y_val)
        seed = agreed(_draw_seed(self.random_state), self.estimator)
        targets, validation, probe = self._check_net(X, targets, validation, seed)
        X = with_targets(X, targets.values)
        if validation is not None:
            validation = with_targets(*validation), validation[1]
        splits = self._splits(X, targets, validation, seed, split_params)
        if self.drop_fraction == "auto":
            check_trial_splits(splits, score_held_out=self.engine is None)
        return _Problem(
            X=X,
            targets=targets,
            validation=validation,
            refit_validation=validation_of_refit(probe, validation),
            splits=splits,
            seed=seed,
            fit_params=fit_params,
            key=""
            if self.memory is None
            else self._key(probe, len(splits), X, targets.values, *(validation or ())),
        )

    def _find_harmful(self, problem: "_Problem", bar) -> None:
        """Train on parts of the rows, score them all, decide which to drop."""
        rounds = self._round_one(problem, bar)
        self._collect_influence(rounds, problem)
        self._decide(rounds, problem, bar)

    def _round_one(self, problem: "_Problem", bar) -> list[RoundOne]:
        """Train on parts of the rows, and score them all."""
        numbers = range(len(problem.splits))
        arguments = (self._round_arguments(number, problem) for number in numbers)
        watch = {"on_stage": bar.set_description, "on_product": bar.refresh}
        n_jobs = None if len(problem.splits) == 1 else self.n_jobs
        return self._run_all(
            run_round_one, NOT_IN_THE_KEY, arguments, bar, n_jobs, **watch
        )

    def _decide(self, rounds: list[RoundOne], problem: "_Problem", bar) -> None:
        """Set which rows are kept."""
        labels = problem.targets.labels
        rule = "negative" if self.drop_fraction == "auto" else self.drop_fraction
        keep = keep_mask(self.influence_per_view_, self._split_of_views(), rule, labels)
        if self.drop_fraction == "auto":
            fraction = self._choose_fraction(keep, rounds, problem, bar)
            keep = drop_fewer(keep, self.influence_, fraction)
        self._set_kept(keep, labels)

    def _choose_fraction(self, keep, rounds, problem: "_Problem", bar) -> float:
        """Train again without some rows, and compare on those that had no say."""
        fractions = fractions_to_try(keep, self.influence_)
        bar.total += len(rounds) * (len(fractions) - 1)
        bar.set_description("trials without the most harmful rows")
        shared = [
            self._shared_by_trials(number, result.net, problem)
            for number, result in enumerate(rounds)
        ]
        arguments = (
            of_round | self._rows_of_trial(number, fraction, problem)
            for number, of_round in enumerate(shared)
            for fraction in fractions[1:]
        )
        trials = self._run_all(
            run_trial, NOT_IN_THE_KEY_OF_A_TRIAL, arguments, bar, self.n_jobs
        )
        objectives = np.empty((len(rounds), len(fractions)))
        objectives[:, 0] = [
            held_out_objective(r.net, s["held_out"], s["scales"], s["scoring"])
            for r, s in zip(rounds, shared, strict=True)
        ]
        measured = np.array([trial.objective for trial in trials])
        objectives[:, 1:] = measured.reshape(len(rounds), -1)
        self.cv_results_ = {"drop_fraction": fractions, "objective": objectives}
        self.timings_["trials"] = sum(t.seconds for t in trials)
        overlap = sum(len(s.held_out) / len(s.train) for s in problem.splits)
        return float(fractions[one_standard_error(objectives, overlap / len(rounds))])

    def _shared_by_trials(self, number: int, net, problem: "_Problem") -> dict:
        shared = self._shared_arguments(number, problem)
        return shared | {
            "scales": scales_of(net, shared["held_out"], shared["scoring"])
        }

    def _rows_of_trial(self, number: int, fraction, problem: "_Problem") -> dict:
        kept = kept_in_trial(
            number,
            problem.splits[number],
            self.influence_per_view_,
            self._split_of_views(),
            fraction,
            problem.targets.labels,
        )
        return {
            "rows": problem.rows(kept),
            "split": replace(problem.splits[number], train=kept),
            "fit_params": problem.fit_params_of(kept),
            "name": f"round 1, split {number + 1}, without {fraction:.1%} of the rows",
        }

    def _split_of_views(self) -> np.ndarray:
        return np.array([view.split for view in self.views_])

    def _run_all(self, run, not_in_the_key, arguments, bar, n_jobs, **watch) -> list:
        """Call `run` with each of the arguments, here or by workers."""
        if self.memory is not None:
            run = check_memory(self.memory).cache(run, ignore=not_in_the_key)
            lend_to_main(self.estimator)
        if n_processes(n_jobs) > 1:
            # A bar cannot follow what workers do.
            watch = {}
        calls = (of_job | watch for of_job in arguments)
        results = []
        for result in run_all(run, calls, n_jobs=n_jobs, net=self.estimator):
            results.append(result)
            bar.update()
        return results

    def _round_arguments(self, number: int, problem: "_Problem") -> dict:
        split = problem.splits[number]
        return self._shared_arguments(number, problem) | {
            "train": problem.rows(split.train),
            "number": number,
            "score_held_out": problem.validation is None,
            "fit_params": problem.fit_params_of(split.train),
            "name": f"round 1, split {number + 1} of {len(problem.splits)}",
            # Splits run side by side; a single one shares out the rows it scores.
            "n_jobs": self.n_jobs if len(problem.splits) == 1 else None,
        }

    def _shared_arguments(self, number: int, problem: "_Problem") -> dict:
        """Arguments that a split has in common with its trials."""
        held_out = problem.validation or problem.rows(problem.splits[number].held_out)
        # Other initial weights in every split: their agreement is the evidence.
        seed = _derived_seed(problem.seed, number) if number else problem.seed
        return {
            "estimator": self.estimator,
            "held_out": held_out,
            "key": problem.key,
            "split": problem.splits[number],
            "seed": seed,
            "scoring": self._scoring(len(problem.splits), len(held_out[0])),
            "verbose": self._net_verbosity(),
        }

    def _scoring(self, n_splits: int, n_held_out: int) -> Scoring:
        views = Views() if self.views is None else self.views
        return Scoring(
            objective=self.objective,
            is_classification=self._is_classification,
            engine=self.engine,
            curvature=self.curvature,
            solver=self.solver,
            autocast=self.autocast,
            n_checkpoints=views.n_checkpoints,
            n_groups=views.groups(n_splits, n_held_out),
        )

    def _key(self, probe, n_splits: int, *rows) -> str:
        """Of everything but the splits, the seed and the drop rule."""
        if self.random_state is None:
            warnings.warn(
                "memory has no effect with random_state=None: every fit draws another "
                "seed and trains anew. Set random_state to an integer.",
                UserWarning,
                stacklevel=4,
            )
        # How many rows are held out, joblib knows.
        scoring = self._scoring(n_splits, n_held_out=sys.maxsize)
        return round_key(self.estimator, probe.module_.modules(), vars(scoring), rows)

    def _collect_influence(self, rounds: list[RoundOne], problem: "_Problem") -> None:
        self.round_one_estimators_ = [r.net for r in rounds]
        per_view = []
        for split, result in zip(problem.splits, rounds, strict=True):
            scores = result.scores
            influence = np.full((len(scores.views), len(problem.X)), np.nan)
            influence[:, split.train] = scores.train
            if len(split.held_out):
                influence[:, split.held_out] = scores.held_out
            per_view.append(influence)
        self.influence_per_view_ = np.concatenate(per_view)
        self.views_ = [view for r in rounds for view in r.scores.views]
        self.influence_ = mean_influence(self.influence_per_view_)
        self.solver_results_ = [s for r in rounds for s in r.scores.solver_results]
        self.timings_ = {
            stage: sum(r.seconds[stage] for r in rounds)
            for stage in ("round_one", "scoring")
        }
        heard = [w for r in rounds for w in r.warnings]
        heard += [(s.message, ConvergenceWarning) for s in self.solver_results_]
        for message, category in heard:
            if message:
                warnings.warn(message, category, stacklevel=4)

    def _set_kept(self, keep, labels) -> None:
        self.sample_mask_ = keep
        self.sample_indices_ = np.flatnonzero(self.sample_mask_)
        self.n_dropped_ = int(np.sum(~self.sample_mask_))
        n_scored = np.sum(~np.isnan(self.influence_))
        self.drop_fraction_ = self.n_dropped_ / max(n_scored, 1)

    def _retrain(self, problem: "_Problem", bar) -> None:
        """Round 2: from scratch, on the rows kept."""
        bar.set_description("round 2: retraining on the kept rows")
        start = perf_counter()
        X, y = problem.rows(self.sample_indices_)
        net = train(
            self.estimator,
            X,
            y,
            validation=problem.refit_validation,
            seed=problem.seed,
            fit_params=problem.fit_params_of(self.sample_indices_),
            name="round 2",
            verbose=self._net_verbosity(),
        )
        check_predictions(net, X, "round 2")
        self.estimator_ = net
        bar.update()
        self.timings_["round_two"] = perf_counter() - start

    def _splits(self, X, targets: Targets, validation, seed, split_params):
        if validation is not None:
            return [Split(np.arange(len(X)), np.arange(0))]
        y = targets.values if targets.labels is None else targets.labels
        classes = getattr(self, "classes_", None)
        # Hashed, so that the folds are independent of whatever else the user drew
        # from the same seed: rows corrupted on purpose, an outer split.
        return held_out_splits(
            self.cv,
            X,
            y,
            classes=classes,
            random_state=_derived_seed(seed),
            split_params=split_params,
        )

    def _check_parameters(self):
        check_is_net(self.estimator, wrapper=type(self).__name__)
        warn_of_module_instance(self.estimator)
        check_drop_fraction(self.drop_fraction)
        check_objective(self.objective)
        check_autocast(self.autocast)
        kinds: dict[str, type[Views | Trajectory | Curvature | Solver]] = {
            "views": Views,
            "engine": Trajectory,
            "curvature": Curvature,
            "solver": Solver,
        }
        for name, kind in kinds.items():
            value = getattr(self, name)
            check_kind(name, value, kind, optional=True)
            if value is not None:
                value.check_parameters()
        if self.memory is not None and has_ranks(self.estimator):
            raise ValueError(
                "memory= is not supported where several processes train one net: one "
                "could find a split that another has to train. Leave it out."
            )
        unused = (self.curvature, self.solver, self.autocast)
        if self.engine is not None and unused != (None, None, None):
            raise ValueError(
                "engine=Trajectory() replays the training and uses neither curvature "
                "nor solver nor autocast; got both an engine and one of these. Set one "
                "of them to None."
            )

    def _check_data(self, X, y, X_val, y_val):
        if (rows := self._unread(X_val)) is not None:
            X_val, y_val = with_own_targets(rows, y_val)
        if (X_val is None) != (y_val is None):
            missing = "X_val" if X_val is None else "y_val"
            raise ValueError(
                f"X_val and y_val go together; {missing} is missing. Pass both, or "
                "neither and let cv hold rows out."
            )
        if (rows := self._unread(X)) is not None:
            X, y = with_own_targets(rows, y)
        if y is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is "
                "None."
            )
        X = self._as_rows(X, reset=True)
        y = y if isinstance(X, DatasetRows) else in_memory(y)
        self.input_shape_ = X.shape[1:]
        targets = self._fit_targets(y)
        check_consistent_length(X, targets.values)
        if X_val is None:
            return X, targets, None
        with of_argument("X_val"):
            X_val = self._check_X(X_val)
        with of_argument("y_val"):
            y_val = self._val_targets(y_val)
            check_consistent_length(X_val, y_val)
        if len(X_val) < 2:
            raise ValueError(
                f"X_val holds {len(X_val)} row(s); influence is measured on held-out "
                "rows and needs at least two."
            )
        return X, targets, (X_val, y_val)

    def _progress_bar(self, n_trainings: int):
        return tqdm(
            total=n_trainings, unit="training", leave=False, disable=not self.verbose
        )

    def _net_verbosity(self):
        return max(int(self.verbose) - 1, 0)

    @abstractmethod
    def _fit_targets(self, y) -> Targets:
        """Check and encode the targets, and set what is learned from them."""

    @abstractmethod
    def _val_targets(self, y_val) -> np.ndarray:
        """Check and encode the held-out targets."""

    @abstractmethod
    def _check_net(self, X, targets, validation, seed):
        """Match net and data; return targets, validation rows, an untrained net."""


@dataclass(frozen=True)
class _Problem:
    """What a fit is about, checked.

    Attributes
    ----------
    X : ndarray or DatasetRows of shape (n_samples, ...)
    targets : Targets
    validation : tuple (X, y) or None
        Held-out rows that were given.
    refit_validation : tuple (X, y), None or "own"
        See `validation_of_refit`.
    splits : list of Split
    seed : int
    fit_params : dict
        For the ``fit`` of the net.
    key : str
        See `round_key`; empty without `memory`.
    """

    X: np.ndarray | DatasetRows
    targets: Targets
    validation: tuple | None
    refit_validation: tuple | str | None
    splits: list[Split]
    seed: int
    fit_params: dict
    key: str

    def rows(self, indices) -> tuple:
        return self.X[indices], self.targets.values[indices]

    def fit_params_of(self, indices) -> dict:
        return {
            name: rows_of(value, indices, len(self.X))
            for name, value in self.fit_params.items()
        }


def _derived_seed(seed: int, *key: int) -> int:
    """Another seed, independent of the first and of what else it was used for."""
    return int(np.random.SeedSequence([seed, *key]).generate_state(1)[0])


def _draw_seed(random_state) -> int:
    """One seed for all trainings of a fit; an integer is taken as it is."""
    if random_state is None:
        return int(torch.randint(2**31 - 1, ()))
    if isinstance(random_state, Integral) and 0 <= int(random_state) < 2**32:
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))
