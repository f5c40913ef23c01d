"""Round 1 as a step of a pipeline: which rows to keep, and no round 2."""

from contextlib import suppress

import numpy as np
import sklearn
import torch
from sklearn.base import (
    OneToOneFeatureMixin,
    TransformerMixin,
    is_classifier,
    is_regressor,
)
from sklearn.utils import _safe_indexing
from sklearn.utils.fixes import parse_version
from sklearn.utils.validation import check_is_fitted
from torch.utils.data import Dataset

from sk_datadrop._estimators import DataDropoutClassifier, DataDropoutRegressor
from sk_datadrop._row_selection import BaseRowSelection
from sk_datadrop._rows import as_rows, with_own_targets
from sk_datadrop._validation import check_is_net


class _BaseSelector(OneToOneFeatureMixin, BaseRowSelection):
    """What transformer and sampler share: an estimator that stops after round 1."""

    def fit(self, X, y=None, *, X_val=None, y_val=None, **params):
        """Train, score and decide which rows to keep.

        Round 1 of the estimators, without round 2.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...) or torch.utils.data.Dataset
            Rows: tables (N, D), signals (N, C, L), images (N, C, H, W). Any
            integer or float dtype; the net gets float32. A `numpy.memmap`, a data
            set, or :class:`DatasetRows` is read row by row.
        y : array-like of shape (n_samples,) or (n_samples, ...) or None, default=None
            Labels of any type for a classifier; targets of the shape of the
            net's outputs for a regressor. None takes those of the data set X.
        X_val, y_val : array-like, Dataset or None, default=None
            Rows to measure influence on, instead of `cv`: one split that trains
            on all of X. Never trained on and never dropped.
        **params : dict
            ``groups`` of shape (n_samples,) goes to the ``split`` of `cv`, all else to
            the ``fit`` of the net. With metadata routing enabled, what is requested
            goes where it is requested.

        Returns
        -------
        object
            The selector itself, fitted.

        Raises
        ------
        TypeError
            If `estimator` is not a skorch net.
        ValueError
            If data, parameters, net and criterion do not fit together, before
            any training; or if a training loss becomes NaN or infinite.

        See Also
        --------
        get_support : Which rows are kept.

        Examples
        --------
        >>> import numpy as np, torch
        >>> from skorch import NeuralNetRegressor
        >>> from sk_datadrop import DataDropoutTransformer
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(60, 3))
        >>> y = X @ [1.0, 2.0, 3.0]
        >>> net = NeuralNetRegressor(
        ...     torch.nn.Linear, module__in_features=3, module__out_features=1,
        ...     lr=0.1, verbose=0,
        ... )
        >>> selector = DataDropoutTransformer(net, drop_fraction=0.1, cv=2)
        >>> selector.fit(X, y).n_dropped_
        6
        """
        check_is_net(self.estimator, wrapper=type(self).__name__)
        model = _data_dropout_class(self.estimator)(**self.get_params(deep=False))
        problem = model._problem(X, y, X_val, y_val, params)
        with model._progress_bar(len(problem.splits)) as bar:
            model._find_harmful(problem, bar)
        self._take_over(model)
        return self

    def _take_over(self, model) -> None:
        """Set the fitted attributes of the model, and none of an earlier fit."""
        for name in _fitted(self):
            delattr(self, name)
        for name, value in _fitted(model).items():
            setattr(self, name, value)

    def get_feature_names_out(self, input_features=None):
        """Return the names of the columns, which are those that came in.

        Rows are dropped, columns are not.

        Parameters
        ----------
        input_features : array-like of str or None, default=None
            Names of the columns. None takes ``feature_names_in_``, or x0, x1, ...

        Returns
        -------
        ndarray of shape (n_features,), dtype object
            Names.

        Raises
        ------
        ValueError
            If the rows seen in ``fit`` were not those of a table, or the names are
            not those seen in ``fit``.

        See Also
        --------
        sklearn.base.OneToOneFeatureMixin : Where it comes from.

        Examples
        --------
        >>> import numpy as np, torch
        >>> from skorch import NeuralNetRegressor
        >>> from sk_datadrop import DataDropoutTransformer
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(60, 3))
        >>> y = X @ [1.0, 2.0, 3.0]
        >>> net = NeuralNetRegressor(
        ...     torch.nn.Linear, module__in_features=3, module__out_features=1,
        ...     lr=0.1, verbose=0,
        ... )
        >>> selector = DataDropoutTransformer(net, cv=2, random_state=0).fit(X, y)
        >>> selector.get_feature_names_out().tolist()
        ['x0', 'x1', 'x2']
        """
        check_is_fitted(self, "input_shape_")
        if len(self.input_shape_) != 1:
            raise ValueError(
                "only tables have names of columns; the rows seen in fit have shape "
                f"{self.input_shape_}. Take the names before the rows become images."
            )
        return super().get_feature_names_out(input_features)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.target_tags.multi_output = True
        return tags


class DataDropoutTransformer(TransformerMixin, _BaseSelector):
    """Score the training rows and decide which to keep; change nothing.

    Round 1 of :class:`DataDropoutClassifier` or :class:`DataDropoutRegressor`, without
    round 2. ``transform`` returns its input, all rows of it: a step of a scikit-learn
    pipeline gets X alone and cannot drop rows of y, nor must it drop rows in
    ``predict`` (SLEP005). What was found is in the attributes. To have rows dropped
    within a pipeline take :class:`DataDropoutSampler`, or one of the estimators as
    last step.

    A net that scikit-learn takes for a classifier or a regressor is one; a plain
    :class:`skorch.NeuralNet` is a classifier if its criterion is, or inherits from,
    ``torch.nn.CrossEntropyLoss`` or ``torch.nn.NLLLoss``, and a regressor otherwise.

    Parameters
    ----------
    estimator : skorch.NeuralNet
        Net with a module *class*, cloned and never fitted itself. This and all
        parameters below as in :class:`DataDropoutClassifier`.
    drop_fraction : "negative", "auto" or float in [0, 1), default="negative"
        Which rows to drop: those likely harmful, as many as retraining the splits
        recommends, or this share.
    cv : int, float, cross-validation generator or iterable, default=5
        Which rows each split holds out.
    objective : {"bounded", "loss"} or callable, default="bounded"
        What the held-out rows measure.
    views : Views or None, default=None
        Which checkpoints and held-out groups of a split are scored.
    engine : Trajectory or None, default=None
        How to score, if not by influence functions.
    curvature : Curvature or None, default=None
        None takes ``GaussNewton()``.
    solver : Solver or None, default=None
        None takes ``Lanczos()``.
    autocast : {"bfloat16", "float16"} or None, default=None
        Precision in which the net runs as it scores the rows.
    memory : str, object with the joblib.Memory interface or None, default=None
        Where to keep the splits. Shared with estimators of the same parameters.
    n_jobs : int or None, default=None
        Number of splits to run at a time.
    random_state : int, RandomState instance or None, default=None
        Seeds the splits and the trainings.
    verbose : int, default=0
        1 shows a progress bar; 2 and more also the net's own table.

    Attributes
    ----------
    round_one_estimators_ : list of skorch.NeuralNet
        Nets of round 1, one per split.
    influence_ : ndarray of shape (n_samples,), dtype float64
        Mean influence over the views. Positive is helpful, negative harmful.
    influence_per_view_ : ndarray of shape (n_views, n_samples), dtype float64
        Influence by view.
    views_ : list of View
        Split, epoch and held-out group of each view.
    sample_mask_ : ndarray of shape (n_samples,), dtype bool
        True where the row is to be kept.
    sample_indices_ : ndarray of shape (n_kept,), dtype int64
        Positions of the rows to keep.
    n_dropped_ : int
        Number of rows to drop.
    drop_fraction_ : float
        Share of the scored rows to drop.
    drop_rate_per_class_ : ndarray of shape (n_classes,), dtype float64
        Share of each class to drop; for a classifier only.
    solver_results_ : list of SolverResult
        One per split and checkpoint; none with `Trajectory`.
    cv_results_ : dict of str to ndarray
        What "auto" compared; with "auto" only.
    timings_ : dict of str to float
        Seconds of work in "round_one", "scoring" and "trials" ("auto" only).
    classes_ : ndarray of shape (n_classes,)
        Labels; for a classifier only.
    n_features_in_ : int
        Size of the first axis after that of the samples.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the columns, if X had any.
    input_shape_ : tuple of int
        Shape of one row.

    See Also
    --------
    DataDropoutSampler : Returns the kept rows.
    DataDropoutClassifier : Trains on the kept rows.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from skorch import NeuralNetRegressor
    >>> from sk_datadrop import DataDropoutTransformer
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(200, 3))
    >>> y = X @ [1.0, 2.0, 3.0]
    >>> y[:20] += 30
    >>> net = NeuralNetRegressor(
    ...     torch.nn.Linear, module__in_features=3, module__out_features=1,
    ...     lr=0.1, max_epochs=30,
    ... )
    >>> selector = DataDropoutTransformer(net, random_state=0).fit(X, y)
    >>> int((~selector.sample_mask_[:20]).sum())
    20
    >>> selector.transform(X) is X
    True
    """

    def transform(self, X):
        """Return X as it came, every row of it.

        A step of a pipeline must not drop rows of X alone.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...) or torch.utils.data.Dataset
            Rows of the shape seen in ``fit``.

        Returns
        -------
        array-like of shape (n_samples, ...) or torch.utils.data.Dataset
            X itself; an array if X is a list or the like.

        See Also
        --------
        get_support : Which rows are to be kept.

        Examples
        --------
        >>> import numpy as np, torch
        >>> from skorch import NeuralNetRegressor
        >>> from sk_datadrop import DataDropoutTransformer
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(60, 3))
        >>> y = X @ [1.0, 2.0, 3.0]
        >>> net = NeuralNetRegressor(
        ...     torch.nn.Linear, module__in_features=3, module__out_features=1,
        ...     lr=0.1, verbose=0,
        ... )
        >>> selector = DataDropoutTransformer(net, cv=2, random_state=0).fit(X, y)
        >>> selector.transform(X[:5]).shape
        (5, 3)
        """
        check_is_fitted(self, "sample_mask_")
        self._check_X(X)
        return X if hasattr(X, "shape") or isinstance(X, Dataset) else np.asarray(X)

    def _routes_to(self, callee):
        # Older scikit-learn does not see the fit in fit_transform by itself.
        return super()._routes_to(callee).add(caller="fit_transform", callee=callee)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


class DataDropoutSampler(_BaseSelector):
    """Return the training rows that are worth keeping.

    Round 1 of :class:`DataDropoutClassifier` or :class:`DataDropoutRegressor`, without
    round 2: what is trained on the rows kept is up to the caller, or to the next steps
    of an :class:`imblearn.pipeline.Pipeline`, which drops rows in ``fit`` only. It has
    the methods of a sampler of imbalanced-learn, but needs no imbalanced-learn, and
    takes rows and targets of any shape. It has no ``transform``, so that
    scikit-learn's own pipeline refuses it as an intermediate step.

    A net that scikit-learn takes for a classifier or a regressor is one; a plain
    :class:`skorch.NeuralNet` is a classifier if its criterion is, or inherits from,
    ``torch.nn.CrossEntropyLoss`` or ``torch.nn.NLLLoss``, and a regressor otherwise.

    With metadata routing enabled, `X_val` and `y_val` are requested unless
    ``set_fit_request`` says otherwise (before scikit-learn 1.8 it has to ask for them).

    Parameters
    ----------
    estimator : skorch.NeuralNet
        Net with a module *class*, cloned and never fitted itself. This and all
        parameters below as in :class:`DataDropoutClassifier`.
    drop_fraction : "negative", "auto" or float in [0, 1), default="negative"
        Which rows to drop: those likely harmful, as many as retraining the splits
        recommends, or this share.
    cv : int, float, cross-validation generator or iterable, default=5
        Which rows each split holds out.
    objective : {"bounded", "loss"} or callable, default="bounded"
        What the held-out rows measure.
    views : Views or None, default=None
        Which checkpoints and held-out groups of a split are scored.
    engine : Trajectory or None, default=None
        How to score, if not by influence functions.
    curvature : Curvature or None, default=None
        None takes ``GaussNewton()``.
    solver : Solver or None, default=None
        None takes ``Lanczos()``.
    autocast : {"bfloat16", "float16"} or None, default=None
        Precision in which the net runs as it scores the rows.
    memory : str, object with the joblib.Memory interface or None, default=None
        Where to keep the splits. Shared with estimators of the same parameters.
    n_jobs : int or None, default=None
        Number of splits to run at a time.
    random_state : int, RandomState instance or None, default=None
        Seeds the splits and the trainings.
    verbose : int, default=0
        1 shows a progress bar; 2 and more also the net's own table.

    Attributes
    ----------
    round_one_estimators_ : list of skorch.NeuralNet
        Nets of round 1, one per split.
    influence_ : ndarray of shape (n_samples,), dtype float64
        Mean influence over the views. Positive is helpful, negative harmful.
    influence_per_view_ : ndarray of shape (n_views, n_samples), dtype float64
        Influence by view.
    views_ : list of View
        Split, epoch and held-out group of each view.
    sample_mask_ : ndarray of shape (n_samples,), dtype bool
        True where the row was kept.
    sample_indices_ : ndarray of shape (n_kept,), dtype int64
        Positions of the kept rows.
    n_dropped_ : int
        Number of rows dropped.
    drop_fraction_ : float
        Share of the scored rows that was dropped.
    drop_rate_per_class_ : ndarray of shape (n_classes,), dtype float64
        Share of each class that was dropped; for a classifier only.
    solver_results_ : list of SolverResult
        One per split and checkpoint; none with `Trajectory`.
    cv_results_ : dict of str to ndarray
        What "auto" compared; with "auto" only.
    timings_ : dict of str to float
        Seconds of work in "round_one", "scoring" and "trials" ("auto" only).
    classes_ : ndarray of shape (n_classes,)
        Labels; for a classifier only.
    n_features_in_ : int
        Size of the first axis after that of the samples.
    feature_names_in_ : ndarray of shape (n_features,)
        Names of the columns, if X had any.
    input_shape_ : tuple of int
        Shape of one row.

    See Also
    --------
    DataDropoutTransformer : Decides, and returns all rows.
    DataDropoutClassifier : Trains on the kept rows.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from skorch import NeuralNetRegressor
    >>> from sk_datadrop import DataDropoutSampler
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(200, 3))
    >>> y = X @ [1.0, 2.0, 3.0]
    >>> y[:20] += 30
    >>> net = NeuralNetRegressor(
    ...     torch.nn.Linear, module__in_features=3, module__out_features=1,
    ...     lr=0.1, max_epochs=30,
    ... )
    >>> sampler = DataDropoutSampler(net, drop_fraction=0.1, random_state=0)
    >>> X_kept, y_kept = sampler.fit_resample(X, y)
    >>> X_kept.shape, bool(y_kept.max() < 20)
    ((180, 3), True)
    """

    # scikit-learn has no set_fit_resample_request unless imbalanced-learn was imported
    # first, so that nobody could ask for these; before 1.8 it would fail at them.
    if parse_version(sklearn.__version__) >= parse_version("1.8"):
        __metadata_request__fit_resample = {"X_val": True, "y_val": True}

    def fit_resample(self, X, y=None, *, X_val=None, y_val=None, **params):
        """Train, score and return the rows to keep.

        As the samplers of imbalanced-learn do; its pipelines call it in ``fit`` only.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...) or torch.utils.data.Dataset
            Rows, as for ``fit``.
        y : array-like of shape (n_samples,) or (n_samples, ...) or None, default=None
            Targets, as for ``fit``. None takes those of the data set X.
        X_val, y_val : array-like, Dataset or None, default=None
            Rows to measure influence on, instead of `cv`. Not returned.
        **params : dict
            As for ``fit``.

        Returns
        -------
        X_kept : array-like of shape (n_kept, ...) or DatasetRows
            Rows kept, in their order: of the type and dtype of X, of a data set as
            :class:`DatasetRows`.
        y_kept : array-like of shape (n_kept,) or (n_kept, ...)
            Their targets, of the type and dtype of y; those of a data set as its
            ``DatasetRows.targets`` has them.

        Raises
        ------
        TypeError
            If `estimator` is not a skorch net.
        ValueError
            As ``fit`` does.

        See Also
        --------
        fit : The same, without returning rows.

        Examples
        --------
        >>> import numpy as np, torch
        >>> from skorch import NeuralNetRegressor
        >>> from sk_datadrop import DataDropoutSampler
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(60, 3))
        >>> y = X @ [1.0, 2.0, 3.0]
        >>> net = NeuralNetRegressor(
        ...     torch.nn.Linear, module__in_features=3, module__out_features=1,
        ...     lr=0.1, verbose=0,
        ... )
        >>> sampler = DataDropoutSampler(net, drop_fraction=0.1, cv=2, random_state=0)
        >>> X_kept, y_kept = sampler.fit_resample(X, y)
        >>> X_kept.shape, y_kept.shape
        ((54, 3), (54,))
        """
        if not isinstance(X, np.ndarray) and (rows := as_rows(X)) is not None:
            X, y = with_own_targets(rows, y)
        kept = self.fit(X, y, X_val=X_val, y_val=y_val, **params).sample_indices_
        return _safe_indexing(X, kept), _safe_indexing(y, kept)

    def _routes_to(self, callee):
        mapping = super()._routes_to(callee)
        # A method that scikit-learn knows only once imbalanced-learn was imported;
        # before that, nothing calls it through routing.
        with suppress(ValueError):
            mapping.add(caller="fit_resample", callee=callee)
        return mapping


def _data_dropout_class(net) -> type[DataDropoutClassifier | DataDropoutRegressor]:
    if is_classifier(net):
        return DataDropoutClassifier
    if is_regressor(net):
        return DataDropoutRegressor
    criterion = (
        net.criterion if isinstance(net.criterion, type) else type(net.criterion)
    )
    if issubclass(criterion, torch.nn.CrossEntropyLoss | torch.nn.NLLLoss):
        return DataDropoutClassifier
    return DataDropoutRegressor


def _fitted(estimator) -> dict:
    """Return the public fitted attributes by name."""
    return {
        name: value
        for name, value in vars(estimator).items()
        if name.endswith("_") and not name.startswith("_")
    }
