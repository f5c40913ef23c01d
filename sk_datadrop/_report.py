"""Row by row: what was found about it."""

import numpy as np
from sklearn.utils import check_consistent_length
from sklearn.utils.validation import check_is_fitted

from sk_datadrop._drop import mean_influence, standard_error
from sk_datadrop._rows import as_rows, with_own_targets


def influence_report(estimator, X, y=None) -> np.ndarray:
    """Tell for every row what was given, predicted, scored and decided.

    Sort it by ``influence`` and the rows to look at first come first.

    Parameters
    ----------
    estimator : DataDropoutClassifier, DataDropoutRegressor, DataDropoutTransformer \
            or DataDropoutSampler
        Fitted.
    X : array-like of shape (n_samples, ...) or torch.utils.data.Dataset
        The rows it was fitted on, in the same order.
    y : array-like of shape (n_samples, ...) or None, default=None
        Their targets. None takes those of the data set X; of an array it leaves
        target and prediction out.

    Returns
    -------
    ndarray of shape (n_samples,), structured
        ``row``: position; ``target`` and ``prediction``: given and by the net of round
        2, only where y is 1-D and, for the latter, the estimator predicts;
        ``influence``: mean over the views; ``z``: that mean over its standard error,
        the views taken for independent (NaN with fewer than two); ``n_views``: that
        scored the row; ``kept``. ``pandas.DataFrame(report)`` makes a table of it.

    Raises
    ------
    ValueError
        If the rows are not as many as those of ``fit``.

    See Also
    --------
    InfluenceDisplay : Draws it.
    DataDropoutClassifier : Finds it.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from skorch import NeuralNetRegressor
    >>> from sk_datadrop import DataDropoutRegressor, influence_report
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(200, 3))
    >>> y = X @ [1.0, 2.0, 3.0]
    >>> y[:20] += 30
    >>> net = NeuralNetRegressor(
    ...     torch.nn.Linear, module__in_features=3, module__out_features=1,
    ...     lr=0.1, max_epochs=30,
    ... )
    >>> model = DataDropoutRegressor(net, random_state=0).fit(X, y)
    >>> report = np.sort(influence_report(model, X, y), order="influence")
    >>> bool((report["row"][:20] < 20).all()), int(report["kept"][:20].sum())
    (True, 0)
    """
    check_is_fitted(estimator, "influence_per_view_")
    X, y = rows_and_targets(X, y)
    check_consistent_length(X, y, estimator.sample_mask_)
    views = estimator.influence_per_view_
    columns = {"row": np.arange(len(estimator.sample_mask_))}
    if np.ndim(y) == 1:
        columns["target"] = np.asarray(y)
        if hasattr(estimator, "predict"):
            columns["prediction"] = estimator.predict(X)
    columns["influence"] = mean_influence(views)
    with np.errstate(divide="ignore", invalid="ignore"):
        columns["z"] = columns["influence"] / standard_error(views)
    columns["n_views"] = np.sum(~np.isnan(views), axis=0)
    columns["kept"] = estimator.sample_mask_
    dtype = [(name, values.dtype) for name, values in columns.items()]
    report = np.empty(len(columns["row"]), dtype=dtype)
    for name, values in columns.items():
        report[name] = values
    return report


def rows_and_targets(X, y) -> tuple:
    """Return rows and targets, those of a data set to be taken by number."""
    if (rows := as_rows(X)) is None:
        return X, y
    rows, y = with_own_targets(rows, y)
    return rows, np.asarray(y) if isinstance(y, list | tuple) else y
