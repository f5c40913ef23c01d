"""The findings, sample by sample."""

from typing import Any

import numpy as np
from sklearn.utils import check_consistent_length
from sklearn.utils.validation import check_is_fitted

from sk_datadrop._drop import mean_influence, standard_error
from sk_datadrop._lazy import with_own_targets


def influence_report(estimator: Any, X: Any, y: Any = None) -> np.ndarray:
    """Tell for every sample what was given, predicted, scored and decided.

    Sort it by falling ``harm_probability`` and then rising ``influence``, and the
    samples to look at first come first.

    Parameters
    ----------
    estimator : DataDropoutClassifier, DataDropoutRegressor, DataDropoutTransformer \
            or DataDropoutSampler
        Fitted.
    X, y : array-like of shape (n_samples, ...), Dataset or None
        Samples it was fitted on, in the same order, and their targets. None uses those
        of a data set X; with an array X it leaves target and prediction out.

    Returns
    -------
    ndarray of shape (n_samples,), structured
        ``row``: position; ``target`` and ``prediction``: given and by the net of round
        2, only where y is 1-D and, for the latter, the estimator predicts;
        ``influence``: mean over the views; ``harm_probability``: chance that the
        sample does harm; ``z``: mean influence over its standard error, if the views
        are independent (NaN with fewer than two); ``n_views``: that scored the sample;
        ``kept``. ``pandas.DataFrame(report)`` makes a table of it.

    See Also
    --------
    InfluenceDisplay : Draws it.

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
    check_is_fitted(estimator, "influence_per_view_")
    X, y = with_own_targets(X, y)
    check_consistent_length(X, y, estimator.sample_mask_)
    views = estimator.influence_per_view_
    columns = {"row": np.arange(len(estimator.sample_mask_))}
    if np.ndim(y) == 1:
        columns["target"] = np.asarray(y)
        if hasattr(estimator, "predict"):
            columns["prediction"] = estimator.predict(X)
    columns["influence"] = mean_influence(views)
    columns["harm_probability"] = estimator.harm_probability_
    with np.errstate(divide="ignore", invalid="ignore"):
        columns["z"] = columns["influence"] / standard_error(views)
    columns["n_views"] = np.sum(~np.isnan(views), axis=0)
    columns["kept"] = estimator.sample_mask_
    dtype = [(name, values.dtype) for name, values in columns.items()]
    report = np.empty(len(columns["row"]), dtype=dtype)
    for name, values in columns.items():
        report[name] = values
    return report
