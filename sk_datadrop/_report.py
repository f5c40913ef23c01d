"""Reports of a fit, with one row per sample."""

from importlib import import_module
from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted
from skorch import NeuralNet

from sk_datadrop._base import BaseDataDropout
from sk_datadrop._drop import mean_influence, standard_error
from sk_datadrop._engine import Engine
from sk_datadrop._lazy import as_lazy, has_own_targets, with_own_targets
from sk_datadrop._names import class_names, file_names
from sk_datadrop._objective import Kind
from sk_datadrop._selectors import DataDropoutTransformer

_EXTRAS = {
    "jinja2": "report",
    "matplotlib": "plot",
    "pandas": "report",
    "safetensors": "save",
    "skops": "save",
}
"""Extras of this package, by what they install."""


def influence_report(estimator: Any, X: Any, y: Any = None) -> Any:
    """Report for every sample its target, prediction, scores and whether it was kept.

    Sort the report by falling ``harm_probability`` and then rising ``influence`` to see
    the most suspicious samples first.

    Parameters
    ----------
    estimator : DataDropoutClassifier, DataDropoutRegressor, DataDropoutTransformer \
            or DataDropoutSampler
        Fitted.
    X, y : array-like of shape (n_samples, ...), Dataset or None
        Samples it was fitted on, in the same order, and their targets. None uses the
        targets of a data set X; if X is an array, target and prediction are left out.

    Returns
    -------
    pandas.DataFrame of n_samples rows
        Its index is that of X if X is a DataFrame, or "file" where a data set lists
        the files of its samples, as torchvision's ``ImageFolder`` does; otherwise
        "sample" counts from zero. The columns:

        - ``row`` (int): position in X;
        - ``target``, ``prediction``: given target, and the prediction by the net of
          round 2 if there is one; only if y is 1-D. Classes have the names that the
          ``classes`` of a data set give them;
        - ``suggested``, ``suggestion_probability`` (float): a better target and the
          chance that it is right, if the estimator suggests any;
        - ``harm_probability`` (float): chance that the sample does harm;
        - ``influence`` (float): mean over the views;
        - ``z`` (float): mean influence over its standard error, if the views are
          independent; NaN with fewer than two;
        - ``n_views`` (int): views that scored the sample;
        - ``weight`` (float): weight in round 2, only with ``on_harmful="weigh"``;
        - ``kept`` (bool): whether the sample was kept.

    Raises
    ------
    ImportError
        If pandas is not installed.

    See Also
    --------
    audit : The report of a net, without an estimator and without retraining.
    influence_html : The same as an HTML page with pictures.
    InfluenceDisplay : Draws the scores.

    Examples
    --------
    >>> from sklearn.datasets import make_regression
    >>> from skorch import NeuralNetRegressor
    >>> from torch.nn import LazyLinear
    >>> from sk_datadrop import DataDropoutRegressor, influence_report
    >>> X, y = make_regression(200, 3, random_state=0)
    >>> y[:20] += 500
    >>> net = NeuralNetRegressor(LazyLinear, module__out_features=1, lr=0.1)
    >>> model = DataDropoutRegressor(net, cv=3, random_state=0).fit(X, y)
    >>> report = influence_report(model, X, y)
    >>> harmful = report[report["harm_probability"] > 0.5]
    >>> harmful["row"].tolist() == list(range(20)), bool(harmful["kept"].any())
    (True, False)
    """
    check_support("influence_report", "pandas")
    check_findings("influence_report", estimator)
    names = names_of_classes(estimator, X, y)
    return tabulate(estimator, *with_own_targets(X, y), names)


def audit(
    net: NeuralNet,
    X: Any,
    y: Any = None,
    *,
    cv: Any = 3,
    objective: Kind = "bounded",
    engine: Engine | None = None,
    memory: Any = None,
    n_jobs: int | None = None,
    random_state: Any = None,
    verbose: int = 0,
    X_val: Any = None,
    y_val: Any = None,
) -> Any:
    """Report which samples are likely to harm a net, and retrain nothing.

    It runs round 1 in one call: it trains a clone of the net per split, scores the
    samples, and returns the report of a :class:`DataDropoutTransformer`.

    Parameters
    ----------
    net : skorch.NeuralNet
        Net with a module *class*. It is cloned and never fitted itself.
    X : array-like of shape (n_samples, ...) or torch.utils.data.Dataset
        Samples of any shape: an array, a DataFrame, a data set such as torchvision's
        ``ImageFolder``.
    y : array-like of shape (n_samples,) or (n_samples, ...) or None, default=None
        Labels or targets. None uses the targets of the data set X.
    cv : int, float, cross-validation generator or iterable, default=3
        Samples that each split holds out, as in :class:`DataDropoutClassifier`.
    objective : {"bounded", "loss"} or callable, default="bounded"
        Quantity measured on the held-out samples.
    engine : InfluenceFunctions or None, default=None
        Scores the samples. None uses ``InfluenceFunctions()``.
    memory : str, object with the joblib.Memory interface or None, default=None
        Folder for the trained and scored splits, which later fits reuse.
    n_jobs : int or None, default=None
        Number of joblib worker processes.
    random_state : int, RandomState instance or None, default=None
        Seeds the splits, the initial weights and the order of the batches.
    verbose : int, default=0
        1 shows a progress bar, and prints the fit in one line at the end; 2 and more
        also the net's own table.
    X_val, y_val : array-like, Dataset or None, default=None
        Samples to measure influence on, instead of `cv`. They are not in the report.

    Returns
    -------
    pandas.DataFrame of n_samples rows
        As from :func:`influence_report`. ``kept`` is what "harmful", the default rule
        of the estimators, would keep. It has no ``prediction``: there is no net of
        round 2.

    Raises
    ------
    ImportError
        If pandas is not installed.
    ValueError
        If data, parameters or the net are refused, as by ``fit`` of an estimator.

    See Also
    --------
    DataDropoutTransformer : Does the work; its page explains all parameters.
    influence_report : The report of an estimator that was fitted.
    influence_scores : Scores the samples of a net that was trained elsewhere.

    Examples
    --------
    >>> from sklearn.datasets import make_regression
    >>> from skorch import NeuralNetRegressor
    >>> from torch.nn import LazyLinear
    >>> from sk_datadrop import audit
    >>> X, y = make_regression(200, 3, random_state=0)
    >>> y[:20] += 500
    >>> net = NeuralNetRegressor(LazyLinear, module__out_features=1, lr=0.1)
    >>> report = audit(net, X, y, random_state=0)
    >>> report[~report["kept"]].index.tolist() == list(range(20))
    True
    """
    # Nobody wants to learn it after the trainings.
    check_support("audit", "pandas")
    selector = DataDropoutTransformer(
        net,
        cv=cv,
        objective=objective,
        engine=engine,
        memory=memory,
        n_jobs=n_jobs,
        random_state=random_state,
        verbose=verbose,
    ).fit(X, y, X_val=X_val, y_val=y_val)
    return influence_report(selector, X, y)


def check_support(caller: str, *packages: str) -> None:
    """Raise an ImportError that says what to install, unless all are there."""
    for package in packages:
        try:
            import_module(package)
        except ImportError as error:
            raise ImportError(
                f"{caller} requires {package}. You can install {package} with "
                f'`pip install "sk_datadrop[{_EXTRAS[package]}]"`'
            ) from error


def check_findings(caller: str, estimator: Any) -> None:
    """Raise a TypeError if an estimator is not ours, and NotFittedError if not fitted.

    A pipeline or search that holds one of ours gets a message of its own.
    """
    if hasattr(estimator, "influence_per_view_"):
        return
    if not isinstance(estimator, BaseDataDropout):
        got = type(estimator).__name__
        advice = "Fit a DataDropoutClassifier, or use audit(net, X, y)."
        if isinstance(estimator, Pipeline):
            advice = (
                "Pass the step that is one, and X as it saw it: "
                f"{caller}(pipe[-1], pipe[:-1].transform(X), y)."
            )
        elif hasattr(estimator, "best_estimator_"):
            advice = "Pass its best_estimator_."
        raise TypeError(
            f"{caller} needs a fitted estimator of this package; got {got}. {advice}"
        )
    check_is_fitted(estimator, "influence_per_view_")


def names_of_classes(estimator: Any, X: Any, y: Any = None) -> np.ndarray | None:
    """Return the names of classes 0, 1, ... that a data set X has for these labels."""
    labels = getattr(estimator, "classes_", None)
    if (rows := as_lazy(X)) is None or labels is None or labels.dtype.kind not in "iu":
        return None
    names = class_names(rows)
    if names is None or labels.min() < 0 or labels.max() >= len(names):
        return None
    # Labels from elsewhere may number other classes.
    are_own = y is None and has_own_targets(rows)
    return names if are_own or len(labels) == len(names) else None


def labels_of_classes(estimator: Any, names: np.ndarray | None) -> list[str]:
    """Return how classes are written, in their order; nothing of a regressor."""
    labels = getattr(estimator, "classes_", ())
    return [str(label) for label in (labels if names is None else names[labels])]


def tabulate(estimator: Any, X: Any, y: Any, names: np.ndarray | None) -> Any:
    """Return the report of samples whose targets were read."""
    import pandas as pd

    n_samples = len(estimator.sample_mask_)
    for name, values in (("X", X), ("y", y)):
        if values is not None and (n_given := len(values)) != n_samples:
            raise ValueError(
                f"{name} has {n_given:,} samples, and this {type(estimator).__name__} "
                f"was fitted on {n_samples:,}. Pass all samples that it was fitted on, "
                "in the same order, also those that were dropped."
            )
    columns = {"row": np.arange(n_samples)}
    columns |= _targets(estimator, X, y, names) | _findings(estimator)
    if isinstance(X, pd.DataFrame):
        index = X.index
    elif (files := file_names(X)) is not None:
        index = pd.Index(files, name="file")
    else:
        index = pd.RangeIndex(n_samples, name="sample")
    return pd.DataFrame(columns, index=index)


def _targets(
    estimator: Any, X: Any, y: Any, names: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Return the columns of what was given, predicted and suggested."""
    columns = {}
    if np.ndim(y) == 1:
        columns["target"] = np.asarray(y)
        if hasattr(estimator, "predict"):
            columns["prediction"] = estimator.predict(X)
    suggested = getattr(estimator, "suggested_targets_", None)
    if suggested is not None and np.ndim(suggested) == 1:
        columns["suggested"] = np.asarray(suggested)
    if names is not None:
        columns = {name: names[labels] for name, labels in columns.items()}
    probability = getattr(estimator, "suggestion_probability_", None)
    if "suggested" in columns and probability is not None:
        columns["suggestion_probability"] = np.asarray(probability)
    return columns


def _findings(estimator: Any) -> dict[str, np.ndarray]:
    """Return the columns of scores and decisions."""
    views = estimator.influence_per_view_
    influence = mean_influence(views)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = influence / standard_error(views)
    is_weighed = getattr(estimator, "on_harmful", "drop") == "weigh"
    return {
        "harm_probability": estimator.harm_probability_,
        "influence": influence,
        "z": z,
        "n_views": np.sum(~np.isnan(views), axis=0),
        **({"weight": estimator.sample_weight_} if is_weighed else {}),
        "kept": estimator.sample_mask_,
    }
