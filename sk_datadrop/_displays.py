"""Pictures of the findings, in the manner of scikit-learn's displays."""

from typing import Any, Self

import numpy as np

from sk_datadrop._curves import DropCurve, drop_curve
from sk_datadrop._engine import View
from sk_datadrop._lazy import LazyTargets, with_own_targets
from sk_datadrop._pictures import draw_gallery
from sk_datadrop._report import (
    check_findings,
    check_report_support,
    labels_of_classes,
    names_of_classes,
    tabulate,
)
from sk_datadrop._samples import by_position

MOST_CHARACTERS_IN_A_LINE = 50
"""Of names of classes, side by side."""


class DropCurveDisplay:
    """Gain of data dropout over no dropout and a random drop, by the share dropped.

    Where a 95 % interval holds zero, dropping that share was not shown to help.

    Parameters
    ----------
    curve : DropCurve
        From :func:`drop_curve`.

    Attributes
    ----------
    ax_, figure_ : matplotlib.axes.Axes, matplotlib.figure.Figure
        Axes and figure drawn on.

    See Also
    --------
    drop_curve : Measures it.

    Examples
    --------
    >>> import numpy as np
    >>> from sk_datadrop import DropCurve, DropCurveDisplay
    >>> curve = DropCurve(
    ...     [0.1], np.array([[0.8], [0.9]]), random=np.array([[0.7], [0.6]]),
    ...     none=np.array([0.7, 0.8]), n_dropped=np.array([[9], [9]]),
    ...     n_train=np.array([90, 90]), n_test=np.array([50, 50]),
    ... )
    >>> DropCurveDisplay(curve).plot().ax_.get_ylabel()
    'gain in score'
    """

    def __init__(self, curve: DropCurve) -> None:
        self.curve = curve

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, y: Any = None, *, ax: Any = None, **options: Any
    ) -> Self:
        """Measure with :func:`drop_curve` and draw.

        All trainings take place here; `plot` draws again without any.

        Parameters
        ----------
        estimator : DataDropoutClassifier or DataDropoutRegressor
            Not fitted.
        X, y : array-like of shape (n_samples, ...), Dataset or None
            Samples and targets, as for :func:`drop_curve`.
        ax : matplotlib.axes.Axes or None, default=None
            Axes to draw on; None makes a figure.
        **options : dict
            Options of :func:`drop_curve`.

        Returns
        -------
        DropCurveDisplay
            The display, drawn.

        See Also
        --------
        plot : Draws a curve that was measured.

        Examples
        --------
        >>> from skorch import NeuralNetRegressor
        >>> from torch.nn import LazyLinear
        >>> from sk_datadrop import DataDropoutRegressor, DropCurveDisplay
        >>> X, y = [[-1.0], [1.0]] * 30, [-2.0, 2.0] * 30
        >>> net = NeuralNetRegressor(LazyLinear, module__out_features=1, lr=0.1)
        >>> model = DataDropoutRegressor(net, cv=2, random_state=0)
        >>> display = DropCurveDisplay.from_estimator(model, X, y, fractions=[0.1])
        >>> display.curve.dropout.shape
        (9, 1)
        """
        # Nobody wants to learn it after the trainings.
        check_report_support("DropCurveDisplay.from_estimator", "matplotlib")
        return cls(drop_curve(estimator, X, y, **options)).plot(ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw the gains with their 95 % intervals.

        Call it again to draw on other axes.

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
        ...     [0.1], np.array([[0.8], [0.9]]), random=np.array([[0.7], [0.6]]),
        ...     none=np.array([0.7, 0.8]), n_dropped=np.array([[9], [9]]),
        ...     n_train=np.array([90, 90]), n_test=np.array([50, 50]),
        ... )
        >>> DropCurveDisplay(curve).plot().ax_.get_xlabel()
        'share of the training samples dropped'
        """
        check_report_support("DropCurveDisplay.plot", "matplotlib")
        ax = _axes(ax)
        shares = np.mean(self.curve.n_dropped / self.curve.n_train[:, None], axis=0)
        order = np.argsort(shares)
        for over, label, shift in [
            ("none", "over no dropout", -1),
            ("random", "over a random drop of as many samples", 1),
        ]:
            mean, low, high = (v[order] for v in self.curve.gain(over))
            reach = np.array([mean - low, high - mean])
            x = shares[order] + shift * 0.002
            ax.errorbar(x, mean, yerr=reach, marker="o", capsize=3, label=label)
        ax.axhline(0, color="0.5", linewidth=1)
        ax.set(xlabel="share of the training samples dropped", ylabel="gain in score")
        ax.legend(title="data dropout, mean and 95 % interval")
        self.ax_, self.figure_ = ax, ax.figure
        return self


class InfluenceDisplay:
    """The findings of data dropout about the samples.

    `plot` has four pictures: all scores, samples at both ends, classes, agreement.

    Parameters
    ----------
    estimator : DataDropoutClassifier, DataDropoutRegressor, DataDropoutTransformer \
            or DataDropoutSampler
        Fitted.
    X, y : array-like of shape (n_samples, ...), Dataset or None
        Samples it was fitted on, in the same order, and targets (None: of a data set).

    Attributes
    ----------
    report_ : pandas.DataFrame of n_samples rows
        From :func:`influence_report`.
    ax_, figure_ : matplotlib.axes.Axes or ndarray of Axes, matplotlib.figure.Figure
        Axes and figure drawn on; a gallery has many axes.

    See Also
    --------
    influence_report : The same, sample by sample.

    Examples
    --------
    >>> from skorch import NeuralNetRegressor
    >>> from torch.nn import LazyLinear
    >>> from sk_datadrop import DataDropoutRegressor, InfluenceDisplay
    >>> X, y = [[-1.0], [1.0]] * 30, [-2.0, 2.0] * 30
    >>> net = NeuralNetRegressor(LazyLinear, module__out_features=1, lr=0.1)
    >>> model = DataDropoutRegressor(net, cv=3, random_state=0).fit(X, y)
    >>> InfluenceDisplay.from_estimator(model, X, y).ax_.get_xlabel()
    'influence'
    """

    def __init__(self, estimator: Any, X: Any, y: Any = None) -> None:
        check_report_support("InfluenceDisplay")
        check_findings("InfluenceDisplay", estimator)
        self.estimator = estimator
        self.names = names_of_classes(estimator, X, y)
        X, y = with_own_targets(X, y)
        self.report_ = tabulate(estimator, X, y, self.names)
        self.X = by_position(X)
        self.y = y if isinstance(y, LazyTargets) else np.asarray(y)

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, y: Any = None, **options: Any
    ) -> Self:
        """Draw a fitted estimator.

        The estimator has to be fitted; nothing is trained.

        Parameters
        ----------
        estimator : estimator of this package
            Fitted.
        X, y : array-like of shape (n_samples, ...), Dataset or None
            Samples and targets it was fitted on.
        **options : dict
            Options of `plot`: `kind`, `ax` and `n_samples`.

        Returns
        -------
        InfluenceDisplay
            The display, drawn.

        See Also
        --------
        plot : Draws another picture of the same.

        Examples
        --------
        >>> from skorch import NeuralNetRegressor
        >>> from torch.nn import LazyLinear
        >>> from sk_datadrop import DataDropoutRegressor, InfluenceDisplay
        >>> X, y = [[-1.0], [1.0]] * 30, [-2.0, 2.0] * 30
        >>> net = NeuralNetRegressor(LazyLinear, module__out_features=1, lr=0.1)
        >>> model = DataDropoutRegressor(net, cv=2, random_state=0).fit(X, y)
        >>> display = InfluenceDisplay.from_estimator(model, X, y, kind="agreement")
        >>> display.ax_.get_xlabel()
        'influence by net 1'
        """
        return cls(estimator, X, y).plot(**options)

    def plot(
        self, kind: str = "histogram", *, ax: Any = None, n_samples: int = 8
    ) -> Self:
        """Draw one of the pictures.

        Nothing is computed again, so that several pictures cost little.

        Parameters
        ----------
        kind : {"histogram", "gallery", "classes", "agreement"}, default="histogram"
            - "histogram": influence of the samples kept and dropped;
            - "gallery": the most harmful and the most helpful samples, with the label
              given and predicted above them, in red where these differ, or the images
              given and, if the estimator predicts, predicted beneath;
            - "classes": share of each class that was dropped;
            - "agreement": influence by one net of round 1 against that by another, or,
              with a single net, by two epochs of it or two groups of held-out samples.
        ax : matplotlib.axes.Axes or None, default=None
            Axes to draw on; None makes a figure. A gallery always makes its own.
        n_samples : int, default=8
            Number of samples at each end of a gallery, up to four side by side.

        Returns
        -------
        InfluenceDisplay
            Itself.

        See Also
        --------
        from_estimator : Makes the display and draws.

        Examples
        --------
        >>> from skorch import NeuralNetRegressor
        >>> from torch.nn import LazyLinear
        >>> from sk_datadrop import DataDropoutRegressor, InfluenceDisplay
        >>> X, y = [[-1.0], [1.0]] * 30, [-2.0, 2.0] * 30
        >>> net = NeuralNetRegressor(LazyLinear, module__out_features=1, lr=0.1)
        >>> model = DataDropoutRegressor(net, cv=2, random_state=0).fit(X, y)
        >>> InfluenceDisplay(model, X, y).plot("gallery", n_samples=3).ax_.shape
        (2, 3)
        """
        check_report_support("InfluenceDisplay.plot", "matplotlib")
        if kind == "gallery":
            if ax is not None:
                raise ValueError("a gallery makes its own axes; leave ax out.")
            self.figure_ = _figure()
            findings = self.estimator, self.X, self.y, self.report_
            self.ax_ = draw_gallery(self.figure_, *findings, n_samples)
            return self
        if kind not in _KINDS:
            known = ", ".join([*_KINDS, "gallery"])
            raise ValueError(f"kind must be one of {known}; got {kind!r}.")
        self.ax_ = ax = _axes(ax)
        self.figure_ = ax.figure
        _KINDS[kind](self, ax)
        return self


def _draw_histogram(display: InfluenceDisplay, ax: Any) -> None:
    influence, kept = (display.report_[c].to_numpy() for c in ("influence", "kept"))
    scored = ~np.isnan(influence)
    # Tails that hold one sample in two hundred would squeeze all others into a bar.
    low, high = np.quantile(influence[scored], [0.005, 0.995])
    shown = np.clip(influence, low, high)
    parts = [shown[scored & kept], shown[scored & ~kept]]
    labels = [f"kept ({np.sum(kept)})", f"dropped ({np.sum(~kept)})"]
    ax.hist(parts, bins=np.linspace(low, high, 50), stacked=True, label=labels)
    ax.axvline(0, color="0.5", linewidth=1)
    ax.set(xlabel="influence", ylabel="samples", yscale="log")
    ax.ticklabel_format(axis="x", style="sci", scilimits=(0, 0))
    ax.legend()


def _draw_classes(display: InfluenceDisplay, ax: Any) -> None:
    rates = getattr(display.estimator, "drop_rate_per_class_", None)
    if rates is None:
        raise ValueError("a regressor has no classes; choose another kind.")
    labels = labels_of_classes(display.estimator, display.names)
    ax.bar(labels, rates)
    if sum(map(len, labels)) > MOST_CHARACTERS_IN_A_LINE:
        ax.tick_params(axis="x", rotation=90)
    ax.axhline(display.estimator.drop_fraction_, color="0.5", linestyle="--")
    ax.set(xlabel="class", ylabel="share dropped")


def _draw_agreement(display: InfluenceDisplay, ax: Any) -> None:
    views = display.estimator.views_
    if len(views) < 2:
        raise ValueError("there is one view only; it has no other to agree with.")
    second = next((i for i, v in enumerate(views) if v.split != views[0].split), 1)
    x, y = display.estimator.influence_per_view_[[0, second]]
    kept = display.report_["kept"].to_numpy()
    for rows, label in [(kept, "kept"), (~kept, "dropped")]:
        ax.plot(x[rows], y[rows], ".", markersize=3, label=label)
    seen = ~np.isnan(x + y)
    ax.set_title(f"correlation {np.corrcoef(x[seen], y[seen])[0, 1]:.2f}")
    ax.axhline(0, color="0.5", linewidth=1)
    ax.axvline(0, color="0.5", linewidth=1)
    ax.set_xlabel(f"influence by {_name(views[0], views[second])}")
    ax.set_ylabel(f"influence by {_name(views[second], views[0])}")
    ax.ticklabel_format(style="sci", scilimits=(0, 0))
    ax.legend(markerscale=3)


_KINDS = {
    "histogram": _draw_histogram,
    "classes": _draw_classes,
    "agreement": _draw_agreement,
}
"""Pictures on one pair of axes. To add one: a function here, and a line in `plot`."""


def _name(view: View, other: View) -> str:
    net = f"net {view.split + 1}"
    if view.split != other.split:
        return net
    return f"{net}, epoch {view.epoch}, group {view.group + 1}"


def _figure() -> Any:
    import matplotlib.pyplot as plt

    return plt.figure(layout="constrained")


def _axes(ax: Any) -> Any:
    return _figure().subplots() if ax is None else ax
