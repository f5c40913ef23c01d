"""Figures of a fit, in the manner of scikit-learn's displays."""

from typing import Any, Self

import numpy as np

from sk_datadrop._engine import View
from sk_datadrop._lazy import LazyTargets, with_own_targets
from sk_datadrop._pictures import draw_gallery
from sk_datadrop._report import (
    check_findings,
    check_support,
    labels_of_classes,
    names_of_classes,
    tabulate,
)
from sk_datadrop._samples import by_position

MOST_CHARACTERS_IN_A_LINE = 50
"""Characters of the names of classes, side by side."""


class InfluenceDisplay:
    """Figures of the scores of a fitted estimator, in the manner of scikit-learn.

    `plot` draws one of four: a histogram, a gallery, drop rates, or agreement.

    Parameters
    ----------
    estimator : DataDropoutClassifier, DataDropoutRegressor, DataDropoutTransformer \
            or DataDropoutSampler
        Fitted.
    X, y : array-like of shape (n_samples, ...), Dataset or None
        Samples it was fitted on, in the same order, and their targets. None uses the
        targets of a data set X.

    Attributes
    ----------
    report_ : pandas.DataFrame of n_samples rows
        From :func:`influence_report`.
    ax_, figure_ : matplotlib.axes.Axes or ndarray of Axes, matplotlib.figure.Figure
        Axes and figure drawn on; a gallery has many axes.

    See Also
    --------
    influence_report : Returns the same as a table.

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
        check_support("InfluenceDisplay", "pandas")
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
        """Draw a figure of a fitted estimator.

        Nothing is trained.

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
        plot : Draws another figure.

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
        """Draw one of the figures.

        Nothing is computed again, so further figures cost little.

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
        check_support("InfluenceDisplay.plot", "matplotlib")
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
        raise ValueError(
            "a regressor has no classes, and samples of many classes each are in no "
            "single one; choose another kind, such as 'histogram' or 'gallery'."
        )
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
