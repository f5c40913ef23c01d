"""The base of all estimators, transformers and samplers: parameters and `fit`."""

from time import perf_counter
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import BaseEstimator, MetaEstimatorMixin
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping
from sklearn.utils.validation import check_is_fitted
from skorch import NeuralNet

from sk_datadrop._casting import Casting
from sk_datadrop._engine import Engine, View
from sk_datadrop._inputs import check_inputs, with_targets_given, without_targets
from sk_datadrop._objective import Kind
from sk_datadrop._plan import Plan, make_plan
from sk_datadrop._predictions import Aim
from sk_datadrop._progress import Progress
from sk_datadrop._schedule import work_of_fit
from sk_datadrop._two_rounds import (
    Choice,
    Refit,
    choose,
    gather,
    judge,
    retrain,
    score_splits,
    store,
    store_refit,
    warn_of,
)
from sk_datadrop._written import written


class BaseDataDropout(MetaEstimatorMixin, BaseEstimator):
    """Parameters, `fit`, metadata routing and the kept samples of all of them."""

    _is_classification: ClassVar[bool | None] = None
    """True where targets are classes; None asks the net."""

    _has_round_two: ClassVar[bool] = True
    aim_: Aim
    influence_: np.ndarray
    influence_per_view_: np.ndarray
    harm_probability_: np.ndarray
    sample_mask_: np.ndarray
    sample_indices_: np.ndarray
    sample_weight_: np.ndarray
    suggested_targets_: np.ndarray
    suggestion_probability_: np.ndarray
    n_dropped_: int
    drop_fraction_: float
    summary_: str
    warnings_: list[str]
    timings_: dict[str, float]
    views_: list[View]
    round_one_estimators_: list[NeuralNet]

    def __init__(
        self,
        estimator: NeuralNet,
        *,
        drop_fraction: str | float = "harmful",
        cv: Any = 3,
        objective: Kind = "bounded",
        engine: Engine | None = None,
        memory: Any = None,
        n_jobs: int | None = None,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.estimator = estimator
        self.drop_fraction = drop_fraction
        self.cv = cv
        self.objective = objective
        self.engine = engine
        self.memory = memory
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        **params: Any,
    ) -> Self:
        """Train, score and drop; an estimator also retrains.

        A transformer or sampler stops after deciding which samples to keep. Errors in
        data, parameters, net or criterion are raised before the first training. A
        ValueError is raised if a training loss becomes NaN or infinite.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...) or torch.utils.data.Dataset
            Samples: tables (N, D), signals (N, C, L), images (N, C, H, W); a dict, a
            :class:`skorch.helper.SliceDict`, a tuple or a list of such arrays for nets
            of several inputs; rows of different lengths if the net has a
            ``collate_fn``. A `numpy.memmap`, a data set, also of Hugging Face, a
            :class:`skorch.helper.SliceDataset` or :class:`DatasetRows` is read one
            sample at a time, never as a whole. Integers stay integers (int64) if the
            net takes them, as embeddings do; everything else is cast to the dtype
            of the net's parameters.
        y : array-like of shape (n_samples,) or (n_samples, ...) or None, default=None
            For a classifier: labels of any type, or many classes per sample in the
            form that the criterion takes: multilabel (N, L), tags (N, L), masks
            (N, H, W). For a regressor: real numbers, usually in the shape of the net's
            outputs. None uses the targets of the data set X.
        X_val, y_val : array-like, Dataset or None, default=None
            Samples to measure influence on, instead of `cv`. There is then one split,
            which trains on all of X. They are never trained on and never dropped.
        **params : dict
            ``groups`` of shape (n_samples,) is passed to the ``split`` of `cv`. All
            others are passed to the ``fit`` of the net in both rounds; arrays with
            n_samples entries are cut as X is. If metadata routing is enabled, each is
            passed to the objects that request it.

        Returns
        -------
        object
            The estimator itself, fitted.

        See Also
        --------
        get_support : Which samples were kept.

        Examples
        --------
        >>> from skorch import NeuralNetRegressor
        >>> from torch.nn import LazyLinear
        >>> from sk_datadrop import DataDropoutRegressor
        >>> X, y = [[-1.0], [1.0]] * 30, [-2.0, 2.0] * 30
        >>> net = NeuralNetRegressor(LazyLinear, module__out_features=1, lr=0.1)
        >>> DataDropoutRegressor(net, cv=2).fit(X, y).influence_.shape
        (60,)
        """
        start = perf_counter()
        self._forget()
        plan = make_plan(
            self, X, y, X_val, y_val, params, is_classification=self._is_classification
        )
        work = work_of_fit(plan, n_refits=int(self._has_round_two))
        with Progress(self.verbose) as bar, bar.part(work):
            results = score_splits(plan, bar)
            bar.hide()
            warn_of(results, stacklevel=2)
            evidence = gather(plan, results)
            verdict = judge(plan, results, evidence, stacklevel=2)
            choice = choose(plan, results, evidence, verdict, *self._decision(), bar)
            # Before round 2, which may fail: round 1 is most of the work.
            store(self, plan, results, evidence, verdict, choice)
            self._suggest_as_given(y)
            if self._has_round_two:
                store_refit(self, self._retrain(plan, choice, bar))
        if self.verbose:
            print(f"{self.summary_}; took {perf_counter() - start:,.1f} s")
        return self

    def _retrain(self, plan: Plan, choice: Choice, bar: Progress) -> Refit:
        try:
            return retrain(plan, choice, bar)
        except ValueError as error:
            error.add_note(
                "Round 1 is done, and what it found is on the estimator: sample_mask_, "
                "harm_probability_, influence_ and the other attributes."
            )
            raise

    def _decision(self) -> tuple[str | float, str]:
        """Return the samples to drop, and the treatment of harmful ones."""
        return self.drop_fraction, getattr(self, "on_harmful", "drop")

    def _suggest_as_given(self, y: Any) -> None:
        """Give targets that no other is suggested for as they came, not in float32."""
        suggested = getattr(self, "suggested_targets_", None)
        if suggested is None or hasattr(self, "classes_") or y is None:
            return
        given = np.asarray(y)
        if given.shape == suggested.shape:
            changed = suggested != given.astype(suggested.dtype)
            kept = given.astype(np.result_type(given, np.float32), copy=True)
            self.suggested_targets_ = np.where(changed, suggested, kept)

    def _forget(self) -> None:
        """Forget an earlier fit: should this one fail, the two must not be mixed."""
        for name in [n for n in vars(self) if n.endswith("_") and n[0] != "_"]:
            delattr(self, name)

    def get_metadata_routing(self) -> MetadataRouter:
        """Tell who receives which metadata in ``fit``.

        scikit-learn calls it when metadata routing is enabled.

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

    def __repr__(self) -> str:
        return written(self)

    def get_support(self, indices: bool = False) -> np.ndarray:
        """Tell which samples were kept.

        scikit-learn's feature selectors have a method of this name for features.

        Parameters
        ----------
        indices : bool, default=False
            Whether to return their positions instead of a mask.

        Returns
        -------
        ndarray of shape (n_samples,), dtype bool, or (n_kept,), dtype int
            In the order of the samples given to ``fit``.

        See Also
        --------
        fit : Decides it.

        Examples
        --------
        >>> from skorch import NeuralNetRegressor
        >>> from torch.nn import LazyLinear
        >>> from sk_datadrop import DataDropoutRegressor
        >>> X, y = [[-1.0], [1.0]] * 30, [-2.0, 2.0] * 30
        >>> net = NeuralNetRegressor(LazyLinear, module__out_features=1, lr=0.1)
        >>> DataDropoutRegressor(net, cv=2).fit(X, y).get_support().shape
        (60,)
        """
        check_is_fitted(self, "sample_mask_")
        kept: np.ndarray = self.sample_indices_ if indices else self.sample_mask_
        return kept

    def _check_X(self, X: Any) -> Any:
        """Check X against what was fitted, and return it to be predicted for."""
        X = check_inputs(
            self,
            X,
            reset=False,
            shape=self.input_shape_,
            casting=Casting(*self.casting_),
        )
        return without_targets(X)

    def _with_own_targets(self, X: Any, y: Any) -> tuple[Any, Any]:
        """Return X and y, those of the data set X if y is None."""
        return with_targets_given(self.estimator, X, y) if y is None else (X, y)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.non_deterministic = self.random_state is None
        return tags
