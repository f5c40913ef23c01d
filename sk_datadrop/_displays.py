"""Pictures of what was found, as scikit-learn's displays draw theirs."""

import numpy as np
from sklearn.utils.validation import check_is_fitted

from sk_datadrop._curves import DropCurve, drop_curve
from sk_datadrop._report import influence_report, rows_and_targets
from sk_datadrop._rows import DatasetRows, row_of

KINDS = ("histogram", "gallery", "classes", "agreement")


class DropCurveDisplay:
    """Gain of data dropout over no dropout and a random drop, by the share dropped.

    Two lines with their 95 % intervals. Where an interval holds zero, dropping that
    share was not shown to help.

    Parameters
    ----------
    curve : DropCurve
        From :func:`drop_curve`.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Axes drawn on.
    figure_ : matplotlib.figure.Figure
        Figure drawn on.

    See Also
    --------
    drop_curve : Measures it.

    Examples
    --------
    >>> import numpy as np
    >>> from sk_datadrop import DropCurve, DropCurveDisplay
    >>> curve = DropCurve(
    ...     fractions=[0.1, 0.2],
    ...     dropout=np.array([[0.8, 0.9], [0.8, 0.8]]),
    ...     random=np.array([[0.7, 0.7], [0.6, 0.6]]),
    ...     none=np.array([0.7, 0.7]),
    ...     n_dropped=np.array([[10, 20], [10, 20]]),
    ...     n_train=np.array([100, 100]),
    ...     n_test=np.array([50, 50]),
    ... )
    >>> display = DropCurveDisplay(curve).plot()
    >>> display.ax_.get_ylabel()
    'gain in score'
    """

    def __init__(self, curve: DropCurve) -> None:
        self.curve = curve

    @classmethod
    def from_estimator(cls, estimator, X, y=None, *, ax=None, **options):
        """Measure with :func:`drop_curve` and draw.

        All trainings take place here; `plot` draws again without any.

        Parameters
        ----------
        estimator : DataDropoutClassifier or DataDropoutRegressor
            Not fitted.
        X : array-like of shape (n_samples, ...) or torch.utils.data.Dataset
            Rows.
        y : array-like of shape (n_samples, ...) or None, default=None
            Targets. None takes those of the data set X.
        ax : matplotlib.axes.Axes or None, default=None
            Axes to draw on; None makes a figure.
        **options : dict
            Of :func:`drop_curve`.

        Returns
        -------
        DropCurveDisplay
            With the curve, drawn.

        See Also
        --------
        plot : Draws a curve that was measured.

        Examples
        --------
        >>> import numpy as np, torch
        >>> from skorch import NeuralNetRegressor
        >>> from sk_datadrop import DataDropoutRegressor, DropCurveDisplay
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(60, 3))
        >>> net = NeuralNetRegressor(
        ...     torch.nn.Linear, module__in_features=3, module__out_features=1, lr=0.1,
        ... )
        >>> display = DropCurveDisplay.from_estimator(
        ...     DataDropoutRegressor(net, cv=2), X, X @ [1.0, 2.0, 3.0],
        ...     fractions=[0.1], n_repeats=1, cv=2, random_state=0,
        ... )
        >>> display.curve.n_dropped.tolist()
        [[3], [3]]
        """
        return cls(drop_curve(estimator, X, y, **options)).plot(ax)

    def plot(self, ax=None):
        """Draw the gains with their 95 % intervals.

        One line against no dropout, one against a random drop of as many rows.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or None, default=None
            Axes to draw on; None makes a figure.

        Returns
        -------
        DropCurveDisplay
            Itself.

        See Also
        --------
        from_estimator : Measures and draws.

        Examples
        --------
        >>> import numpy as np
        >>> from sk_datadrop import DropCurve, DropCurveDisplay
        >>> curve = DropCurve(
        ...     fractions=[0.1],
        ...     dropout=np.array([[0.8], [0.9]]),
        ...     random=np.array([[0.7], [0.6]]),
        ...     none=np.array([0.7, 0.8]),
        ...     n_dropped=np.array([[10], [10]]),
        ...     n_train=np.array([100, 100]),
        ...     n_test=np.array([50, 50]),
        ... )
        >>> DropCurveDisplay(curve).plot().ax_.get_xlabel()
        'share of the training rows dropped'
        """
        ax = _axes(ax)
        shares = np.mean(self.curve.n_dropped / self.curve.n_train[:, None], axis=0)
        order = np.argsort(shares)
        for over, label, shift in [
            ("none", "over no dropout", -1),
            ("random", "over a random drop of as many rows", 1),
        ]:
            mean, low, high = (v[order] for v in self.curve.gain(over))
            ax.errorbar(
                shares[order] + shift * 0.002,
                mean,
                yerr=np.array([mean - low, high - mean]),
                marker="o",
                capsize=3,
                label=label,
            )
        ax.axhline(0, color="0.5", linewidth=1)
        ax.set_xlabel("share of the training rows dropped")
        ax.set_ylabel("gain in score")
        ax.legend(title="data dropout, mean and 95 % interval")
        self.ax_, self.figure_ = ax, ax.figure
        return self


class InfluenceDisplay:
    """What data dropout found among the rows.

    Four pictures, see `plot`: all scores, the rows at both ends, the classes, the
    agreement of two views.

    Parameters
    ----------
    estimator : DataDropoutClassifier, DataDropoutRegressor, DataDropoutTransformer \
            or DataDropoutSampler
        Fitted.
    X : array-like of shape (n_samples, ...) or torch.utils.data.Dataset
        The rows it was fitted on, in the same order.
    y : array-like of shape (n_samples, ...) or None, default=None
        Their targets. None takes those of the data set X.

    Attributes
    ----------
    report_ : ndarray of shape (n_samples,), structured
        From :func:`influence_report`.
    ax_ : matplotlib.axes.Axes or ndarray of Axes
        Axes drawn on; a gallery has many.
    figure_ : matplotlib.figure.Figure
        Figure drawn on.

    See Also
    --------
    influence_report : The same, row by row.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from skorch import NeuralNetRegressor
    >>> from sk_datadrop import DataDropoutRegressor, InfluenceDisplay
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(100, 3))
    >>> y = X @ [1.0, 2.0, 3.0]
    >>> net = NeuralNetRegressor(
    ...     torch.nn.Linear, module__in_features=3, module__out_features=1, lr=0.1,
    ... )
    >>> model = DataDropoutRegressor(net, cv=3, random_state=0).fit(X, y)
    >>> InfluenceDisplay.from_estimator(model, X, y).ax_.get_xlabel()
    'influence'
    """

    def __init__(self, estimator, X, y=None) -> None:
        check_is_fitted(estimator, "influence_")
        self.estimator = estimator
        X, y = rows_and_targets(X, y)
        self.report_ = influence_report(estimator, X, y)
        if not isinstance(X, DatasetRows):
            X, y = np.asarray(X), np.asarray(y)
        self.X, self.y = X, y

    @classmethod
    def from_estimator(
        cls, estimator, X, y=None, *, kind="histogram", ax=None, n_rows=8
    ):
        """Draw a fitted estimator.

        The estimator has to be fitted; nothing is trained.

        Parameters
        ----------
        estimator : DataDropoutClassifier, DataDropoutRegressor, \
                DataDropoutTransformer or DataDropoutSampler
            Fitted.
        X : array-like of shape (n_samples, ...) or torch.utils.data.Dataset
            The rows it was fitted on, in the same order.
        y : array-like of shape (n_samples, ...) or None, default=None
            Their targets. None takes those of the data set X.
        kind : {"histogram", "gallery", "classes", "agreement"}, default="histogram"
            See `plot`.
        ax : matplotlib.axes.Axes or None, default=None
            Axes to draw on; None makes a figure.
        n_rows : int, default=8
            Rows of data at each end of a gallery.

        Returns
        -------
        InfluenceDisplay
            With the report, drawn.

        See Also
        --------
        plot : Draws another picture of the same.

        Examples
        --------
        >>> import numpy as np, torch
        >>> from skorch import NeuralNetRegressor
        >>> from sk_datadrop import DataDropoutRegressor, InfluenceDisplay
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(60, 3))
        >>> y = X @ [1.0, 2.0, 3.0]
        >>> net = NeuralNetRegressor(
        ...     torch.nn.Linear, module__in_features=3, module__out_features=1, lr=0.1,
        ... )
        >>> model = DataDropoutRegressor(net, cv=2, random_state=0).fit(X, y)
        >>> display = InfluenceDisplay.from_estimator(model, X, y, kind="agreement")
        >>> display.ax_.get_xlabel()
        'influence, split 1, epoch 10, group 1'
        """
        return cls(estimator, X, y).plot(kind, ax=ax, n_rows=n_rows)

    def plot(self, kind="histogram", *, ax=None, n_rows=8):
        """Draw one of the pictures.

        Nothing is computed again, so that several pictures cost little.

        Parameters
        ----------
        kind : {"histogram", "gallery", "classes", "agreement"}, default="histogram"
            - "histogram": influence of the rows kept and dropped;
            - "gallery": the most harmful and the most helpful rows, with the label
              given and predicted, or the target image beneath;
            - "classes": share of each class that was dropped;
            - "agreement": influence in one view against another, the first two of
              different splits where there are such.
        ax : matplotlib.axes.Axes or None, default=None
            Axes to draw on; None makes a figure. A gallery always makes its own.
        n_rows : int, default=8
            Rows of data at each end of a gallery.

        Returns
        -------
        InfluenceDisplay
            Itself.

        Raises
        ------
        ValueError
            If `kind` is unknown, a gallery is given axes, or there are no classes, or
            no two views.

        See Also
        --------
        from_estimator : Makes the display and draws.

        Examples
        --------
        >>> import numpy as np, torch
        >>> from skorch import NeuralNetRegressor
        >>> from sk_datadrop import DataDropoutRegressor, InfluenceDisplay
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(60, 3))
        >>> y = X @ [1.0, 2.0, 3.0]
        >>> net = NeuralNetRegressor(
        ...     torch.nn.Linear, module__in_features=3, module__out_features=1, lr=0.1,
        ... )
        >>> model = DataDropoutRegressor(net, cv=2, random_state=0).fit(X, y)
        >>> InfluenceDisplay(model, X, y).plot("gallery", n_rows=3).ax_.shape
        (2, 3)
        """
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}; got {kind!r}.")
        if kind == "gallery":
            if ax is not None:
                raise ValueError("a gallery makes its own axes; leave ax out.")
            self.ax_ = self._gallery(n_rows)
            self.figure_ = self.ax_.flat[0].figure
            return self
        ax = _axes(ax)
        self.ax_, self.figure_ = ax, ax.figure
        getattr(self, f"_{kind}")(ax)
        return self

    def _histogram(self, ax) -> None:
        influence, kept = self.report_["influence"], self.report_["kept"]
        scored = ~np.isnan(influence)
        # Tails that hold one row in two hundred would squeeze all others into a bar.
        low, high = np.quantile(influence[scored], [0.005, 0.995])
        bins = np.linspace(low, high, 50)
        shown = np.clip(influence, low, high)
        ax.hist(
            [shown[scored & kept], shown[scored & ~kept]],
            bins=bins,
            stacked=True,
            label=[f"kept ({np.sum(kept)})", f"dropped ({np.sum(~kept)})"],
        )
        ax.axvline(0, color="0.5", linewidth=1)
        ax.set_yscale("log")
        ax.set_xlabel("influence")
        ax.set_ylabel("rows")
        ax.legend()

    def _classes(self, ax) -> None:
        rates = getattr(self.estimator, "drop_rate_per_class_", None)
        if rates is None:
            raise ValueError("a regressor has no classes; take another kind.")
        ax.bar([str(label) for label in self.estimator.classes_], rates)
        ax.axhline(self.estimator.drop_fraction_, color="0.5", linestyle="--")
        ax.set_xlabel("class")
        ax.set_ylabel("share dropped")

    def _agreement(self, ax) -> None:
        views = self.estimator.views_
        others = [i for i, view in enumerate(views) if view.split != views[0].split]
        if len(views) < 2:
            raise ValueError("there is one view only; it has no other to agree with.")
        second = others[0] if others else 1
        x, y = self.estimator.influence_per_view_[[0, second]]
        kept = self.report_["kept"]
        for rows, label in [(kept, "kept"), (~kept, "dropped")]:
            ax.plot(x[rows], y[rows], ".", markersize=3, label=label)
        seen = ~np.isnan(x + y)
        correlation = np.corrcoef(x[seen], y[seen])[0, 1]
        ax.set_title(f"correlation {correlation:.2f}")
        ax.axhline(0, color="0.5", linewidth=1)
        ax.axvline(0, color="0.5", linewidth=1)
        ax.set_xlabel(f"influence, {_name(views[0])}")
        ax.set_ylabel(f"influence, {_name(views[second])}")
        ax.legend()

    def _gallery(self, n_rows: int) -> np.ndarray:
        import matplotlib.pyplot as plt

        order = np.argsort(self.report_["influence"])
        order = order[~np.isnan(self.report_["influence"][order])]
        n_columns = min(n_rows, len(order) // 2)
        has_pairs = self.y.ndim > 2
        ends = [order[:n_columns], order[::-1][:n_columns]]
        n_lines = 4 if has_pairs else 2
        _, axes = plt.subplots(
            n_lines,
            n_columns,
            figsize=(1.3 * n_columns, 1.55 * n_lines),
            layout="constrained",
            squeeze=False,
        )
        for end, rows in enumerate(ends):
            for column, row in enumerate(rows):
                line = end * (n_lines // 2)
                _draw_row(axes[line, column], row_of(self.X, row))
                axes[line, column].set_title(self._caption(row), fontsize="x-small")
                if has_pairs:
                    _draw_row(axes[line + 1, column], self.y[row])
        axes[0, 0].set_ylabel("most harmful")
        axes[n_lines // 2, 0].set_ylabel("most helpful")
        return axes

    def _caption(self, row: int) -> str:
        names = self.report_.dtype.names or ()
        lines = [f"row {row}"]
        if "target" in names:
            lines.append(f"given {_short(self.report_['target'][row])}")
        if "prediction" in names:
            lines.append(f"predicted {_short(self.report_['prediction'][row])}")
        return "\n".join(lines)


def _short(value) -> str:
    return f"{value:.3g}" if isinstance(value, float | np.floating) else str(value)


def _name(view) -> str:
    return f"split {view.split + 1}, epoch {view.epoch}, group {view.group + 1}"


def _draw_row(ax, values) -> None:
    """Draw an image (C, H, W), a signal (C, L) or the columns of a table."""
    if values.ndim == 3 and len(values) in (3, 4):
        low, high = values.min(), values.max()
        ax.imshow(np.moveaxis(values - low, 0, -1) / max(high - low, 1e-12))
    elif values.ndim == 3:
        ax.imshow(values[0], cmap="gray")
    elif values.ndim == 2:
        ax.plot(values.T, linewidth=1)
    else:
        ax.bar(np.arange(values.size), values.reshape(-1))
    ax.set_xticks([])
    ax.set_yticks([])


def _axes(ax):
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(layout="constrained")[1]
