"""Round 1 as a step of a pipeline, without round 2."""

from contextlib import suppress
from typing import Any, ClassVar

import numpy as np
import sklearn
from sklearn.base import OneToOneFeatureMixin, TransformerMixin
from sklearn.utils import _safe_indexing
from sklearn.utils.fixes import parse_version
from sklearn.utils.metadata_routing import MethodMapping
from sklearn.utils.validation import check_is_fitted
from skorch.helper import SliceDict
from torch.utils.data import Dataset

from sk_datadrop._base import BaseDataDropout
from sk_datadrop._lazy import DatasetRows, as_arrays, as_lazy, with_own_targets


class _BaseSelector(OneToOneFeatureMixin, BaseDataDropout):
    """Estimator that stops after round 1; the base of transformer and sampler."""

    _has_round_two: ClassVar[bool] = False

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Return the names of the columns, which are those of the input.

        Only samples are dropped, never columns. Images have no names: a ValueError.

        Parameters
        ----------
        input_features : array-like of str or None, default=None
            Names seen in ``fit``. None uses ``feature_names_in_``, or x0, x1, ...

        Returns
        -------
        ndarray of shape (n_features,), dtype object
            Names.

        See Also
        --------
        sklearn.base.OneToOneFeatureMixin : Base class that provides it.

        Examples
        --------
        >>> from skorch import NeuralNetRegressor
        >>> from torch.nn import LazyLinear
        >>> from sk_datadrop import DataDropoutTransformer
        >>> X, y = [[-1.0], [1.0]] * 30, [-2.0, 2.0] * 30
        >>> net = NeuralNetRegressor(LazyLinear, module__out_features=1, lr=0.1)
        >>> DataDropoutTransformer(net, cv=2).fit(X, y).get_feature_names_out().tolist()
        ['x0']
        """
        check_is_fitted(self, "input_shape_")
        if not isinstance(self.input_shape_, tuple) or len(self.input_shape_) != 1:
            raise ValueError(
                "only tables have names of columns; the samples seen in fit have "
                f"shape {self.input_shape_}. Ask for the names before the samples "
                "become images."
            )
        return np.asarray(super().get_feature_names_out(input_features))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.target_tags.multi_output = True
        return tags


class DataDropoutTransformer(TransformerMixin, _BaseSelector):
    """Score the training samples and decide which to keep; change nothing.

    Round 1 of :class:`DataDropoutClassifier` or :class:`DataDropoutRegressor`, without
    round 2. ``transform`` returns all samples of its input: a step of a scikit-learn
    pipeline gets X alone, so it cannot drop samples of y, and it must not drop any in
    ``predict`` (SLEP005). The results are in the attributes. To drop samples within a
    pipeline, use :class:`DataDropoutSampler`, or an estimator as the last step.

    scikit-learn's tags tell whether the net is a classifier or a regressor. A plain
    :class:`skorch.NeuralNet` is a classifier if its criterion is, or inherits from,
    ``torch.nn.CrossEntropyLoss`` or ``torch.nn.NLLLoss``, and a regressor otherwise.

    Parameters
    ----------
    estimator : skorch.NeuralNet
        Net with a module *class*. It is cloned and never fitted itself.
    drop_fraction : "harmful", "auto" or float in [0, 1), default="harmful"
        Samples to drop: harmful ones, as many as retraining favours, or this share.
    cv, objective, engine, memory, n_jobs, random_state, verbose : object
        As in :class:`DataDropoutClassifier`. The two can share a `memory`.

    Attributes
    ----------
    influence_ : ndarray of shape (n_samples,), dtype float64
        Mean influence over the views. Positive is helpful, negative harmful.
    harm_probability_ : ndarray of shape (n_samples,), dtype float64
        Chance in [0, 1] that the sample does harm.
    sample_mask_, sample_indices_ : ndarray of shape (n_samples,) and (n_kept,)
        True where the sample is to be kept, and the positions of those.
    round_one_estimators_, influence_per_view_, views_, summary_, warnings_, \
            n_dropped_, drop_fraction_, drop_rate_per_class_, solver_results_, \
            cv_results_, timings_, classes_, target_shape_, input_shape_, casting_, \
            n_features_in_, feature_names_in_
        As in :class:`DataDropoutClassifier` or :class:`DataDropoutRegressor`.

    See Also
    --------
    DataDropoutSampler : Returns the kept samples.
    DataDropoutClassifier : Trains on the kept samples.

    Examples
    --------
    >>> from sklearn.datasets import make_regression
    >>> from skorch import NeuralNetRegressor
    >>> from torch.nn import LazyLinear
    >>> from sk_datadrop import DataDropoutTransformer
    >>> X, y = make_regression(200, 3, random_state=0)
    >>> y[:20] += 500
    >>> net = NeuralNetRegressor(LazyLinear, module__out_features=1, lr=0.1)
    >>> selector = DataDropoutTransformer(net, random_state=0).fit(X, y)
    >>> int((~selector.sample_mask_[:20]).sum())
    20
    """

    def transform(self, X: Any) -> Any:
        """Return X unchanged, with all samples.

        A step of a pipeline must not drop samples of X alone.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...) or torch.utils.data.Dataset
            Samples of the shape seen in ``fit``.

        Returns
        -------
        array-like of shape (n_samples, ...) or torch.utils.data.Dataset
            X itself; an array if X is a list or the like.

        See Also
        --------
        get_support : Tells which samples to keep.

        Examples
        --------
        >>> from skorch import NeuralNetRegressor
        >>> from torch.nn import LazyLinear
        >>> from sk_datadrop import DataDropoutTransformer
        >>> X, y = [[-1.0], [1.0]] * 30, [-2.0, 2.0] * 30
        >>> net = NeuralNetRegressor(LazyLinear, module__out_features=1, lr=0.1)
        >>> DataDropoutTransformer(net, cv=2).fit(X, y).transform(X).shape
        (60, 1)
        """
        check_is_fitted(self, "sample_mask_")
        self._check_X(X)
        is_kept = hasattr(X, "shape") or isinstance(X, Dataset)
        n_parts = len(self.input_shape_) if isinstance(self.input_shape_, list) else 0
        if is_kept or as_lazy(X, n_parts=n_parts) is not None:
            return X
        return np.asarray(X)

    def _routes_to(self, callee: str) -> MethodMapping:
        # Older scikit-learn does not see the fit in fit_transform by itself.
        return super()._routes_to(callee).add(caller="fit_transform", callee=callee)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


class DataDropoutSampler(_BaseSelector):
    """Return the training samples that are worth keeping.

    Round 1 of :class:`DataDropoutClassifier` or :class:`DataDropoutRegressor`, without
    round 2. Train any model on the kept samples, or make this a step of an
    :class:`imblearn.pipeline.Pipeline`, which drops samples in ``fit`` only. It does
    not need imbalanced-learn, and accepts samples and targets of any shape. It has no
    ``transform``, so scikit-learn's own pipeline refuses it as an intermediate step.
    Its attributes are those of :class:`DataDropoutTransformer`, and it tells
    classifiers from regressors in the same way.

    If metadata routing is enabled, `X_val` and `y_val` are requested by default; before
    scikit-learn 1.8 call ``set_fit_request(X_val=True, y_val=True)``.

    Parameters
    ----------
    estimator : skorch.NeuralNet
        Net with a module *class*. It is cloned and never fitted itself.
    drop_fraction : "harmful", "auto" or float in [0, 1), default="harmful"
        Samples to drop: harmful ones, as many as retraining favours, or this share.
    cv, objective, engine, memory, n_jobs, random_state, verbose : object
        As in :class:`DataDropoutClassifier`. The two can share a `memory`.

    See Also
    --------
    DataDropoutTransformer : Decides, and returns all samples.
    DataDropoutClassifier : Trains on the kept samples.

    Examples
    --------
    >>> from sklearn.datasets import make_regression
    >>> from skorch import NeuralNetRegressor
    >>> from torch.nn import LazyLinear
    >>> from sk_datadrop import DataDropoutSampler
    >>> X, y = make_regression(200, 3, random_state=0)
    >>> y[:20] += 500
    >>> net = NeuralNetRegressor(LazyLinear, module__out_features=1, lr=0.1)
    >>> sampler = DataDropoutSampler(net, drop_fraction=0.1, random_state=0)
    >>> X_kept, y_kept = sampler.fit_resample(X, y)
    >>> X_kept.shape, bool(y_kept.max() < 300)
    ((180, 3), True)
    """

    # scikit-learn has no set_fit_resample_request unless imbalanced-learn was imported
    # first, so that nobody could ask for these; before 1.8 it would fail at them.
    if parse_version(sklearn.__version__) >= parse_version("1.8"):
        __metadata_request__fit_resample = {"X_val": True, "y_val": True}

    def fit_resample(
        self,
        X: Any,
        y: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        **params: Any,
    ) -> tuple[Any, Any]:
        """Train, score and return the samples to keep.

        Pipelines of imbalanced-learn call it in ``fit`` only.

        Parameters
        ----------
        X, y : array-like of shape (n_samples, ...), Dataset or None
            Samples and targets, as for ``fit``.
        X_val, y_val : array-like, Dataset or None, default=None
            Samples to measure influence on, instead of `cv`. They are not returned.
        **params : dict
            As for ``fit``.

        Returns
        -------
        X_kept : array-like of shape (n_kept, ...) or DatasetRows
            Samples kept, in their order, of the type and dtype of X if it is an array,
            or a dict, tuple or list of several.
        y_kept : array-like of shape (n_kept,) or (n_kept, ...)
            Their targets, of the type and dtype of y, or ``DatasetRows.targets``.

        See Also
        --------
        fit : The same, without returning samples.

        Examples
        --------
        >>> from skorch import NeuralNetRegressor
        >>> from torch.nn import LazyLinear
        >>> from sk_datadrop import DataDropoutSampler
        >>> X, y = [[-1.0], [1.0]] * 30, [-2.0, 2.0] * 30
        >>> net = NeuralNetRegressor(LazyLinear, module__out_features=1, lr=0.1)
        >>> sampler = DataDropoutSampler(net, drop_fraction=0.1, cv=2, random_state=0)
        >>> [len(kept) for kept in sampler.fit_resample(X, y)]
        [54, 54]
        """
        given = X
        if not isinstance(X, np.ndarray):
            X, y = with_own_targets(X, y)
        kept = self.fit(X, y, X_val=X_val, y_val=y_val, **params).sample_indices_
        X, y = _safe_indexing(X, kept), _safe_indexing(y, kept)
        if isinstance(X, DatasetRows) and not isinstance(given, DatasetRows):
            arrays = as_arrays(X, cast=False)
            X = X if arrays is None else arrays
            # The one kind of dict that can be cut further.
            X = SliceDict(**X) if isinstance(given, SliceDict) else X
        return X, y

    def _routes_to(self, callee: str) -> MethodMapping:
        mapping = super()._routes_to(callee)
        # A method that scikit-learn knows only once imbalanced-learn was imported;
        # before that, nothing calls it through routing.
        with suppress(ValueError):
            mapping.add(caller="fit_resample", callee=callee)
        return mapping
