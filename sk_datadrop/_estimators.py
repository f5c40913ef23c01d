"""The meta-estimators: `fit` is the method.

split -> [train, score] per round -> drop -> retrain.
"""

import sys
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from numbers import Integral
from time import perf_counter

import numpy as np
import torch
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    MetaEstimatorMixin,
    RegressorMixin,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_consistent_length, check_random_state
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping
from sklearn.utils.validation import check_is_fitted, check_memory, validate_data
from skorch import NeuralNetClassifier
from skorch.dataset import Dataset as ArrayDataset
from tqdm.auto import tqdm

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
from sk_datadrop._rows import (
    DatasetRows,
    as_rows,
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
    as_class_targets,
    check_is_net,
    check_labels,
    check_real_targets,
    check_rows,
    encode_labels,
    match_targets,
    of_argument,
    probe_net,
    route_fit_params,
    rows_of,
    validation_of_refit,
    warn_of_module_instance,
)
from sk_datadrop._views import Views
from sk_datadrop._workers import n_processes, run_all
from sk_datadrop.metrics import r2_score

# torch warns of arrays that are read-only, as those of a DataFrame or a memmap are.
_ROWS = {"dtype": np.float32, "allow_nd": True, "force_writeable": True}


class _BaseRowSelection(MetaEstimatorMixin, BaseEstimator):
    """What all that keep some rows share: parameters, routing, the rows kept."""

    def __init__(
        self,
        estimator,
        *,
        drop_fraction="negative",
        cv=5,
        objective="bounded",
        views=None,
        engine=None,
        curvature=None,
        solver=None,
        autocast=None,
        memory=None,
        n_jobs=None,
        random_state=None,
        verbose=0,
    ):
        self.estimator = estimator
        self.drop_fraction = drop_fraction
        self.cv = cv
        self.objective = objective
        self.views = views
        self.engine = engine
        self.curvature = curvature
        self.solver = solver
        self.autocast = autocast
        self.memory = memory
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def get_metadata_routing(self):
        """Tell who takes which metadata in ``fit``.

        For scikit-learn, when metadata routing is enabled.

        Returns
        -------
        sklearn.utils.metadata_routing.MetadataRouter
            `X_val` and `y_val` for itself, ``fit`` of the net, ``split`` of `cv`.

        See Also
        --------
        sklearn.utils.metadata_routing.get_routing_for_object : Calls it.

        Examples
        --------
        >>> from skorch import NeuralNetRegressor
        >>> from torch.nn import Linear
        >>> from sk_datadrop import DataDropoutRegressor
        >>> model = DataDropoutRegressor(NeuralNetRegressor(Linear))
        >>> [name for name, _ in model.get_metadata_routing()]
        ['$self_request', 'estimator']
        """
        router = MetadataRouter(owner=self).add_self_request(self)
        router.add(estimator=self.estimator, method_mapping=self._routes_to("fit"))
        if hasattr(self.cv, "split"):
            router.add(splitter=self.cv, method_mapping=self._routes_to("split"))
        return router

    def _routes_to(self, callee: str) -> MethodMapping:
        return MethodMapping().add(caller="fit", callee=callee)

    def get_support(self, indices=False):
        """Tell which rows were kept.

        The name is that of scikit-learn's feature selectors; here it is about rows.

        Parameters
        ----------
        indices : bool, default=False
            Whether to return their positions instead of a mask.

        Returns
        -------
        ndarray of shape (n_samples,), dtype bool, or (n_kept,), dtype int
            In the order of the rows given to ``fit``.

        See Also
        --------
        fit : Decides it.

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
        >>> model = DataDropoutRegressor(net, drop_fraction=0.1, cv=2, random_state=0)
        >>> model.fit(X, y).get_support(indices=True).shape
        (54,)
        """
        check_is_fitted(self, "sample_mask_")
        return self.sample_indices_ if indices else self.sample_mask_

    def _as_rows(self, X, *, reset: bool):
        """Check X and return it as an array, or to be read row by row."""
        if (rows := self._unread(X)) is None:
            minimum = 2 if reset else 1
            return validate_data(
                self, X, reset=reset, ensure_min_samples=minimum, **_ROWS
            )
        check_rows(rows, self.engine, minimum=2 if reset else 1)
        return validate_data(self, rows, reset=reset, skip_check_array=True)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.non_deterministic = self.random_state is None
        return tags

    def _unread(self, X) -> DatasetRows | None:
        """Return rows to be read one by one; None where they are an array."""
        # Its own data set class makes of an array what it likes.
        if isinstance(X, np.memmap) and self.estimator.dataset is not ArrayDataset:
            return None
        return as_rows(X)

    def _with_own_targets(self, X, y) -> tuple:
        """Return X and y, those of the data set X if y is None."""
        rows = self._unread(X) if y is None else None
        return (X, y) if rows is None else with_own_targets(rows, None)

    def _check_X(self, X):
        X = self._as_rows(X, reset=False)
        # Nothing is asked for their targets, if they have any.
        X = with_targets(X, np.zeros(len(X)))
        if X.shape[1:] != self.input_shape_:
            raise ValueError(
                f"X has rows of shape {X.shape[1:]}, but {type(self).__name__} was "
                f"fitted on rows of shape {self.input_shape_}."
            )
        return X


class _BaseDataDropout(_BaseRowSelection, ABC):
    """What classifier and regressor share: all but the targets."""

    _is_likelihood: bool

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
            Rows to measure influence on, instead of `cv`: one round that trains
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
        keep = keep_mask(self.influence_per_view_, self._round_of_views(), rule, labels)
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
            self._round_of_views(),
            fraction,
            problem.targets.labels,
        )
        return {
            "rows": problem.rows(kept),
            "split": replace(problem.splits[number], train=kept),
            "fit_params": problem.fit_params_of(kept),
            "name": f"round 1, split {number + 1}, without {fraction:.1%} of the rows",
        }

    def _round_of_views(self) -> np.ndarray:
        return np.array([view.round for view in self.views_])

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
            # Rounds run side by side; a single one shares out the rows it scores.
            "n_jobs": self.n_jobs if len(problem.splits) == 1 else None,
        }

    def _shared_arguments(self, number: int, problem: "_Problem") -> dict:
        """Arguments that a round has in common with its trials."""
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

    def _scoring(self, n_rounds: int, n_held_out: int) -> Scoring:
        views = Views() if self.views is None else self.views
        return Scoring(
            objective=self.objective,
            is_likelihood=self._is_likelihood,
            engine=self.engine,
            curvature=self.curvature,
            solver=self.solver,
            autocast=self.autocast,
            n_checkpoints=views.n_checkpoints,
            n_groups=views.groups(n_rounds, n_held_out),
        )

    def _key(self, probe, n_rounds: int, *rows) -> str:
        """Of everything but the splits, the seed and the drop rule."""
        if self.random_state is None:
            warnings.warn(
                "memory has no effect with random_state=None: every fit draws another "
                "seed and trains anew. Set random_state to an integer.",
                UserWarning,
                stacklevel=4,
            )
        # How many rows are held out, joblib knows.
        scoring = self._scoring(n_rounds, n_held_out=sys.maxsize)
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
            **split_params,
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
            if value is None:
                continue
            if not isinstance(value, kind):
                raise TypeError(
                    f"{name} must be None or an instance of {kind.__name__}; got "
                    f"{value!r}."
                )
            value.check_parameters()
        if self.memory is not None and has_ranks(self.estimator):
            raise ValueError(
                "memory= is not supported where several processes train one net: one "
                "could find a round that another has to train. Leave it out."
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

    def _progress_bar(self, n_rounds: int):
        return tqdm(total=n_rounds, unit="round", leave=False, disable=not self.verbose)

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


class DataDropoutClassifier(ClassifierMixin, _BaseDataDropout):
    """Drop the training rows that hurt a classifier, and retrain it from scratch.

    Round 1 trains clones of the net on parts of the data. Every row is scored
    by its influence on the rows held out: the predicted increase of the held-out
    objective if the row were removed. Rows whose influence is negative are
    harmful and are dropped. Round 2 trains on the rest, from scratch, with
    identical settings.

    Parameters
    ----------
    estimator : skorch.NeuralNet
        Net with a module *class*, such as a
        :class:`skorch.NeuralNetClassifier`. Cloned, never fitted itself. In
        round 1 the held-out rows take the place of its ``train_split``; round 2
        trains on every kept row (only if a callback watches a validation
        quantity and no `X_val` is given, ``train_split`` withholds rows).
    drop_fraction : "negative", "auto" or float in [0, 1), default="negative"
        - "negative": drop the rows that are more likely harmful than not,
          given how far the views agree. Where they agree this comes close to
          the sign rule of the paper; on clean data it drops next to nothing.
        - float: drop this share of the scored rows, lowest influence first; 0
          drops nothing.
        - "auto": drop what "negative" does, half of it or nothing, whichever retraining
          recommends. Each round is trained twice more, without as many of its lowest
          rows, and compared on the rows it holds out, by views that these had no part
          in; nothing is dropped if that is within a standard error of the best.
          Costs nothing where "negative" drops nothing. Needs folds, three of them with
          `Trajectory`: no `X_val`, no float `cv`.
    cv : int, float, cross-validation generator or iterable, default=5
        - int: number of shuffled stratified folds, one round each;
        - float in (0, 1): one round that holds out this share; cheaper, and
          more cautious, as there are no other rounds to agree with;
        - splitter, or iterable of (train, held-out) index arrays.
    objective : {"bounded", "loss"} or callable, default="bounded"
        What the held-out rows measure. "bounded" is one minus the probability
        of the true class (a power of it, for classes the net hardly knows), averaged
        over the classes; neither wrong labels among the held-out rows nor frequent
        classes can dominate it. "loss" is the training loss, as in the paper; a
        callable gets (outputs, y) as tensors and returns a tensor of shape (n_rows,),
        lower being better.
    views : Views or None, default=None
        Which checkpoints and held-out groups of a round are scored.
    engine : Trajectory or None, default=None
        None scores by influence functions, with `curvature` and `solver`;
        ``Trajectory()`` by replaying the training backwards.
    curvature : Curvature or None, default=None
        None takes ``GaussNewton()``.
    solver : Solver or None, default=None
        None takes ``Lanczos()``.
    autocast : {"bfloat16", "float16"} or None, default=None
        Precision in which the net runs as it scores the rows, with torch.autocast:
        faster where the hardware has it. See :func:`influence_scores`.
    memory : str, object with the joblib.Memory interface or None, default=None
        Where to keep the rounds, trained and scored, and the trials of "auto", so that
        a fit that differs in `drop_fraction` only, or was killed, does not repeat
        them. Needs an integer `random_state`. The key holds the rows, the parameters,
        the seed, the code of the net as Python has loaded it and the versions of the
        libraries; whoever can write there can execute code here.
    n_jobs : int or None, default=None
        Number of processes of joblib's, for rounds to run side by side, or for the
        rows of a single round to be scored. Under its backend of threads, none. The
        result is the same.
    random_state : int, RandomState instance or None, default=None
        Seeds the splits, the initial weights and the order of the batches, and
        leaves the global generators untouched. An int serves as torch's seed
        itself: with nothing dropped, round 2 equals
        ``torch.manual_seed(random_state)`` and fitting the net. The other
        trainings of round 1 use seeds derived from it. None draws the seed from
        torch's global generator.
    verbose : int, default=0
        1 shows a progress bar; 2 and more also the net's own table.

    Attributes
    ----------
    estimator_ : skorch.NeuralNet
        Net of round 2.
    round_one_estimators_ : list of skorch.NeuralNet
        Nets of round 1, one per split.
    influence_ : ndarray of shape (n_samples,), dtype float64
        Mean influence over the views, in units of the objective. Positive is
        helpful, negative harmful. NaN for rows never scored.
    influence_per_view_ : ndarray of shape (n_views, n_samples), dtype float64
        Influence by view. A row that the round held out is scored by other
        held-out rows; NaN where that is impossible.
    views_ : list of View
        Round, epoch and held-out group of each view.
    sample_mask_ : ndarray of shape (n_samples,), dtype bool
        True where the row was kept.
    sample_indices_ : ndarray of shape (n_kept,), dtype int64
        Positions of the kept rows.
    n_dropped_ : int
        Number of rows dropped.
    drop_fraction_ : float
        Share of the scored rows that was dropped.
    drop_rate_per_class_ : ndarray of shape (n_classes,), dtype float64
        Share of each class that was dropped.
    solver_results_ : list of SolverResult
        One per round and checkpoint; none with `Trajectory`.
    cv_results_ : dict of str to ndarray
        With "auto" only: "drop_fraction" of shape (n_fractions,), and "objective" of
        shape (n_rounds, n_fractions) on the rows held out, lower being better.
    timings_ : dict of str to float
        Seconds of work in "round_one", "scoring", "trials" ("auto" only) and
        "round_two", summed over the rounds; those of a round that `memory` gave back
        are of when it was run.
    classes_ : ndarray of shape (n_classes,)
        Labels.
    n_features_in_ : int
        Size of the first axis after that of the samples.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the columns, if X had any.
    input_shape_ : tuple of int
        Shape of one row.

    See Also
    --------
    DataDropoutRegressor : The same for targets of any shape.

    References
    ----------
    Wang, Huan, Li (2018). Data Dropout: optimizing training data for
    convolutional neural networks. arXiv:1809.00193

    Koh, Liang (2017). Understanding black-box predictions via influence
    functions. arXiv:1703.04730

    Examples
    --------
    >>> import torch
    >>> from sklearn.datasets import load_digits
    >>> from skorch import NeuralNetClassifier
    >>> from sk_datadrop import DataDropoutClassifier
    >>> from sk_datadrop.datasets import flip_labels
    >>> from sk_datadrop.nets import SmallCNN
    >>> digits = load_digits()
    >>> X = digits.images[:, None] / 16
    >>> y, flipped = flip_labels(digits.target, 0.2, random_state=0)
    >>> net = NeuralNetClassifier(
    ...     SmallCNN, criterion=torch.nn.CrossEntropyLoss,
    ...     optimizer=torch.optim.Adam, lr=0.003, max_epochs=10, batch_size=64,
    ... )
    >>> model = DataDropoutClassifier(net, cv=3, random_state=0).fit(X, y)
    >>> bool(flipped[~model.sample_mask_].mean() > 0.8)
    True
    """

    _is_likelihood = True

    def _fit_targets(self, y):
        y = check_labels(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                "Classifier needs at least two classes in y; got one class: "
                f"{self.classes_.tolist()[0]!r}."
            )
        return as_class_targets(self.estimator, labels.astype(np.int64))

    def _val_targets(self, y_val):
        labels = encode_labels(check_labels(y_val, "y_val"), self.classes_, "y_val")
        return as_class_targets(self.estimator, labels).values

    def _check_net(self, X, targets, validation, seed):
        probe, _ = probe_net(
            self.estimator,
            X,
            targets,
            n_classes=len(self.classes_),
            engine=self.engine,
            seed=seed,
        )
        return targets, validation, probe

    def _set_kept(self, keep, labels) -> None:
        super()._set_kept(keep, labels)
        counts = np.bincount(labels)
        dropped = np.bincount(labels[~keep], minlength=len(self.classes_))
        self.drop_rate_per_class_ = dropped / counts

    def predict(self, X):
        """Predict labels with the net of round 2.

        The nets of round 1 have no say in it.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Rows of the shape seen in ``fit``.

        Returns
        -------
        ndarray of shape (n_samples,)
            Labels, of the type of ``classes_``.

        See Also
        --------
        predict_proba : Probabilities.

        Examples
        --------
        >>> import numpy as np, torch
        >>> from skorch import NeuralNetClassifier
        >>> from sk_datadrop import DataDropoutClassifier
        >>> X = np.random.default_rng(0).normal(size=(60, 2))
        >>> y = np.where(X[:, 0] > 0, "right", "left")
        >>> net = NeuralNetClassifier(
        ...     torch.nn.Linear, module__in_features=2, module__out_features=2,
        ...     criterion=torch.nn.CrossEntropyLoss, lr=0.5, verbose=0,
        ... )
        >>> model = DataDropoutClassifier(net, cv=2, random_state=0).fit(X, y)
        >>> model.predict([[3.0, 0.0], [-3.0, 0.0]]).tolist()
        ['right', 'left']
        """
        check_is_fitted(self, "estimator_")
        codes = self.estimator_.predict(self._check_X(X))
        # skorch's base class predicts probabilities.
        codes = codes.argmax(1) if codes.ndim > 1 else codes
        return self.classes_[codes.astype(np.int64)]

    def predict_proba(self, X):
        """Predict class probabilities with the net of round 2.

        In double precision, and summing to one in it.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Rows of the shape seen in ``fit``.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), dtype float64
            Columns in the order of ``classes_``.

        Raises
        ------
        ValueError
            If what the net gives are no probabilities.

        See Also
        --------
        predict : The most probable label.

        Examples
        --------
        >>> import numpy as np, torch
        >>> from skorch import NeuralNetClassifier
        >>> from sk_datadrop import DataDropoutClassifier
        >>> X = np.random.default_rng(0).normal(size=(60, 2))
        >>> y = np.where(X[:, 0] > 0, "right", "left")
        >>> net = NeuralNetClassifier(
        ...     torch.nn.Linear, module__in_features=2, module__out_features=2,
        ...     criterion=torch.nn.CrossEntropyLoss, lr=0.5, verbose=0,
        ... )
        >>> model = DataDropoutClassifier(net, cv=2, random_state=0).fit(X, y)
        >>> proba = model.predict_proba([[3.0, 0.0]])
        >>> proba.shape, bool(proba[0, 1] > 0.5)
        ((1, 2), True)
        """
        check_is_fitted(self, "estimator_")
        proba = self.estimator_.predict_proba(self._check_X(X)).astype(np.float64)
        if not isinstance(self.estimator_, NeuralNetClassifier) and isinstance(
            self.estimator_.criterion_, torch.nn.NLLLoss
        ):
            proba = np.exp(proba)
        sums = proba.sum(axis=1, keepdims=True)
        if proba.min() < 0 or not np.allclose(sums, 1, atol=1e-3):
            raise ValueError(
                "the net's predict_proba gives no probabilities (rows from "
                f"{proba.min():.3g} to {proba.max():.3g}). Give it a "
                "predict_nonlinearity, such as a softmax over axis 1."
            )
        # Single precision leaves the sum off by 1e-7, which log_loss complains of.
        return proba / sums

    def score(self, X, y=None, sample_weight=None):
        """Accuracy of the predictions.

        What searches and cross-validation take unless told otherwise.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...) or torch.utils.data.Dataset
            Rows of the shape seen in ``fit``.
        y : array-like of shape (n_samples,) or None, default=None
            Labels. None takes those of the data set X.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            Weights of the rows.

        Returns
        -------
        float
            Share of the rows whose label is predicted.

        See Also
        --------
        DataDropoutRegressor.score : Of targets that are numbers.

        Examples
        --------
        >>> import numpy as np, torch
        >>> from skorch import NeuralNetClassifier
        >>> from sk_datadrop import DataDropoutClassifier
        >>> X = np.repeat([[-1.0], [1.0]], 20, axis=0)
        >>> y = np.repeat(["left", "right"], 20)
        >>> net = NeuralNetClassifier(
        ...     torch.nn.Linear, module__in_features=1, module__out_features=2,
        ...     criterion=torch.nn.CrossEntropyLoss, lr=1.0, verbose=0,
        ... )
        >>> DataDropoutClassifier(net, cv=2, random_state=0).fit(X, y).score(X, y)
        1.0
        """
        X, y = self._with_own_targets(X, y)
        return super().score(X, y, sample_weight)


class DataDropoutRegressor(RegressorMixin, _BaseDataDropout):
    """Drop the training rows that hurt a regressor, and retrain it from scratch.

    For tables, signals and images, with targets of the shape of the net's
    outputs: numbers, vectors, or whole images as in denoising. See
    :class:`DataDropoutClassifier` for the method.

    Parameters
    ----------
    estimator : skorch.NeuralNet
        Net with a module *class*, such as a :class:`skorch.NeuralNetRegressor`.
        Cloned, never fitted itself. In round 1 the held-out rows take the place
        of its ``train_split``; round 2 trains on every kept row (only if a
        callback watches a validation quantity and no `X_val` is given,
        ``train_split`` withholds rows).
    drop_fraction : "negative", "auto" or float in [0, 1), default="negative"
        - "negative": drop the rows that are more likely harmful than not,
          given how far the views agree;
        - float: drop this share of the scored rows, lowest influence first; 0
          drops nothing.
        - "auto": drop what "negative" does, half of it or nothing, whichever retraining
          recommends. Each round is trained twice more, without as many of its lowest
          rows, and compared on the rows it holds out, by views that these had no part
          in; nothing is dropped if that is within a standard error of the best.
          Costs nothing where "negative" drops nothing. Needs folds, three of them with
          `Trajectory`: no `X_val`, no float `cv`.
    cv : int, float, cross-validation generator or iterable, default=5
        - int: number of shuffled folds, one round each;
        - float in (0, 1): one round that holds out this share; cheaper, and
          more cautious, as there are no other rounds to agree with;
        - splitter, or iterable of (train, held-out) index arrays.
    objective : {"bounded", "loss"} or callable, default="bounded"
        What the held-out rows measure. "bounded" is
        ``1 - exp(-loss / (2.985**2 median(loss)))``, which spoiled targets among the
        held-out rows cannot dominate; "loss" is the training loss, as in the
        paper; a callable gets (outputs, y) as tensors and returns a tensor of
        shape (n_rows,), lower being better.
    views : Views or None, default=None
        Which checkpoints and held-out groups of a round are scored.
    engine : Trajectory or None, default=None
        None scores by influence functions, with `curvature` and `solver`;
        ``Trajectory()`` by replaying the training backwards.
    curvature : Curvature or None, default=None
        None takes ``GaussNewton()``.
    solver : Solver or None, default=None
        None takes ``Lanczos()``.
    autocast : {"bfloat16", "float16"} or None, default=None
        Precision in which the net runs as it scores the rows, with torch.autocast:
        faster where the hardware has it. See :func:`influence_scores`.
    memory : str, object with the joblib.Memory interface or None, default=None
        Where to keep the rounds, trained and scored, and the trials of "auto", so that
        a fit that differs in `drop_fraction` only, or was killed, does not repeat
        them. Needs an integer `random_state`. The key holds the rows, the parameters,
        the seed, the code of the net as Python has loaded it and the versions of the
        libraries; whoever can write there can execute code here.
    n_jobs : int or None, default=None
        Number of processes of joblib's, for rounds to run side by side, or for the
        rows of a single round to be scored. Under its backend of threads, none. The
        result is the same.
    random_state : int, RandomState instance or None, default=None
        Seeds the splits, the initial weights and the order of the batches, and
        leaves the global generators untouched. An int serves as torch's seed
        itself: with nothing dropped, round 2 equals
        ``torch.manual_seed(random_state)`` and fitting the net. The other
        trainings of round 1 use seeds derived from it. None draws the seed from
        torch's global generator.
    verbose : int, default=0
        1 shows a progress bar; 2 and more also the net's own table.

    Attributes
    ----------
    estimator_ : skorch.NeuralNet
        Net of round 2.
    round_one_estimators_ : list of skorch.NeuralNet
        Nets of round 1, one per split.
    influence_ : ndarray of shape (n_samples,), dtype float64
        Mean influence over the views, in units of the objective. Positive is
        helpful, negative harmful. NaN for rows never scored.
    influence_per_view_ : ndarray of shape (n_views, n_samples), dtype float64
        Influence by view.
    views_ : list of View
        Round, epoch and held-out group of each view.
    sample_mask_ : ndarray of shape (n_samples,), dtype bool
        True where the row was kept.
    sample_indices_ : ndarray of shape (n_kept,), dtype int64
        Positions of the kept rows.
    n_dropped_ : int
        Number of rows dropped.
    drop_fraction_ : float
        Share of the scored rows that was dropped.
    solver_results_ : list of SolverResult
        One per round and checkpoint; none with `Trajectory`.
    cv_results_ : dict of str to ndarray
        With "auto" only: "drop_fraction" of shape (n_fractions,), and "objective" of
        shape (n_rounds, n_fractions) on the rows held out, lower being better.
    timings_ : dict of str to float
        Seconds of work in "round_one", "scoring", "trials" ("auto" only) and
        "round_two", summed over the rounds; those of a round that `memory` gave back
        are of when it was run.
    n_features_in_ : int
        Size of the first axis after that of the samples.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the columns, if X had any.
    input_shape_ : tuple of int
        Shape of one row.

    See Also
    --------
    DataDropoutClassifier : The same for labels.

    References
    ----------
    Wang, Huan, Li (2018). Data Dropout: optimizing training data for
    convolutional neural networks. arXiv:1809.00193

    Examples
    --------
    >>> import numpy as np, torch
    >>> from skorch import NeuralNetRegressor
    >>> from sk_datadrop import DataDropoutRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(200, 3))
    >>> y = X @ [1.0, 2.0, 3.0]
    >>> y[:20] += 30
    >>> net = NeuralNetRegressor(
    ...     torch.nn.Linear, module__in_features=3, module__out_features=1,
    ...     lr=0.1, max_epochs=30,
    ... )
    >>> model = DataDropoutRegressor(net, random_state=0).fit(X, y)
    >>> int((~model.sample_mask_[:20]).sum())
    20
    """

    _is_likelihood = False

    def _fit_targets(self, y):
        return Targets(check_real_targets(y), None)

    def _val_targets(self, y_val):
        return check_real_targets(y_val, "y_val")

    def _check_net(self, X, targets, validation, seed):
        probe, shape = probe_net(
            self.estimator,
            X,
            targets,
            n_classes=None,
            engine=self.engine,
            seed=seed,
        )
        self._is_single_target = targets.values.ndim == 1
        if validation is not None:
            with of_argument("y_val"):
                validation = validation[0], match_targets(validation[1], shape)
        return Targets(match_targets(targets.values, shape), None), validation, probe

    def predict(self, X):
        """Predict targets with the net of round 2.

        The nets of round 1 have no say in it.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Rows of the shape seen in ``fit``.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, ...)
            In the shape of y. At most 2-D as float64, images as float32.

        See Also
        --------
        score : Coefficient of determination.

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
        >>> model.predict(X[:2]).shape
        (2,)
        """
        check_is_fitted(self, "estimator_")
        predicted = self.estimator_.predict(self._check_X(X))
        if self._is_single_target:
            predicted = predicted.reshape(len(predicted))
        return predicted.astype(np.float64) if predicted.ndim <= 2 else predicted

    def score(self, X, y=None, sample_weight=None):
        """Coefficient of determination of the predictions, for any target shape.

        What searches and cross-validation take unless told otherwise.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            Rows of the shape seen in ``fit``.
        y : array-like of shape (n_samples,) or (n_samples, ...) or None, default=None
            Targets.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            Only for targets of at most two dimensions.

        Returns
        -------
        float
            R2 of scikit-learn for targets of at most two dimensions, else
            :func:`sk_datadrop.metrics.r2_score`.

        Raises
        ------
        ValueError
            If `sample_weight` is given with image targets.

        See Also
        --------
        sk_datadrop.metrics.r2_score : For targets of more than two dimensions.

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
        >>> bool(model.score(X, y) > 0.5)
        True
        """
        X, y = self._with_own_targets(X, y)
        if np.ndim(y) <= 2:
            return super().score(X, y, sample_weight)
        if sample_weight is not None:
            raise ValueError(
                "sample_weight is not supported for targets of more than two "
                f"dimensions; got y of shape {np.shape(y)}. Leave it out."
            )
        return r2_score(y, self.predict(X))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


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
