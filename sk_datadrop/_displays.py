"""Figures of a fit, in the manner of scikit-learn's displays."""

from typing import Any, Self

import numpy as np

from sk_datadrop._curves import drop_curve
from sk_datadrop._engine import View
from sk_datadrop._gains import DropCurve
from sk_datadrop._lazy import LazyTargets, with_own_targets
from sk_datadrop._pictures import caption, draw_values, pictures_of
from sk_datadrop._report import (
    check_findings,
    check_support,
    labels_of_classes,
    names_of_classes,
    tabulate,
)
from sk_datadrop._samples import by_position

CAPTION_SIZE = 8
"""Points; the least that is read with ease in print."""

INCHES_PER_CHARACTER = 0.07
INCHES_PER_LINE = 0.3
"""Height of a line of a caption, which stands above two lines of pictures."""

SMALLEST_WIDTH = 1.3
MOST_CHARACTERS_IN_A_LINE = 50
"""Characters of the names of classes, side by side."""


class DropCurveDisplay:
    """Gain of data dropout over no dropout and over random samples, rule by rule.

    Where a 95 % interval holds zero, that rule was not shown to help.

    Parameters
    ----------
    curve : DropCurve
        From :func:`drop_curve`.

    Attributes
    ----------
    ax_, figure_ : matplotlib.axes.Axes or ndarray of Axes, matplotlib.figure.Figure
        Axes and figure drawn on; two axes where a curve has `probability` too.

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
            Axes to draw the score on; None makes a figure, and draws `probability`
            beside it, if there is one.
        **options : dict
            Options of :func:`drop_curve`, such as `X_test` and `y_test`.

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
        (9, 2)
        """
        # Nobody wants to learn it after the trainings.
        check_support("DropCurveDisplay.from_estimator", "matplotlib")
        return cls(drop_curve(estimator, X, y, **options)).plot(ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw the gains with their 95 % intervals.

        Rules come first, then shares by their size. Call it again to draw on other
        axes; ``DropCurveDisplay(curve.probability).plot(ax)`` draws that score.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or None, default=None
            Axes to draw the score on; None makes a figure, and draws `probability`
            beside it, if there is one.

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
        >>> ax = DropCurveDisplay(curve).plot().ax_
        >>> [label.get_text() for label in ax.get_xticklabels()]
        ['10 %']
        """
        check_support("DropCurveDisplay.plot", "matplotlib")
        curves = [self.curve]
        if ax is None:
            curves += [self.curve.probability] if self.curve.probability else []
            axes = _side_by_side(len(curves), len(self.curve.fractions))
            self.ax_ = axes if len(curves) > 1 else axes[0]
        else:
            axes = [ax]
            self.ax_ = ax
        for curve, axis in zip(curves, axes, strict=True):
            _draw_gains(curve, axis)
        self.figure_ = axes[0].figure
        return self


def _draw_gains(curve: DropCurve, ax: Any) -> None:
    order = sorted(range(len(curve.fractions)), key=lambda n: _place(curve, n))
    numbers = np.arange(len(order))
    is_share = np.array([not isinstance(curve.fractions[n], str) for n in order])
    for number, (over, label) in enumerate(
        [("none", "no dropout"), ("random", "random samples")]
    ):
        mean, low, high = (v[order] for v in curve.gain(over))
        x = numbers + 0.2 * number - 0.1
        reach = np.array([mean - low, high - mean])
        bars = ax.errorbar(x, mean, yerr=reach, fmt="o", capsize=3, label=label)
        ax.plot(x[is_share], mean[is_share], color=bars.lines[0].get_color(), alpha=0.4)
    ax.axhline(0, color="0.5", linewidth=1)
    ax.set_xticks(numbers, [_name_of_rule(curve, n) for n in order])
    ax.set_xlim(-0.5, len(order) - 0.5)
    scored_on = "trusted samples" if curve.n_parts else "targets as given"
    ax.set(xlabel="samples dropped", ylabel=f"gain in {curve.score}")
    ax.set_title(f"scored on {scored_on}", fontsize="medium")
    ax.legend(
        title="over, mean and 95 % interval",
        ncols=2,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.25),
    )


def _place(curve: DropCurve, number: int) -> tuple[bool, float]:
    """Return what rules are ordered by: those with a name first, shares by size."""
    rule = curve.fractions[number]
    return not isinstance(rule, str), 0.0 if isinstance(rule, str) else rule


def _name_of_rule(curve: DropCurve, number: int) -> str:
    rule = curve.fractions[number]
    if not isinstance(rule, str):
        return f"{100 * rule:.3g} %"
    return f"{rule}\n({curve.shares[number]:.1%})".replace("%", " %")


def _side_by_side(n_axes: int, n_rules: int) -> Any:
    import matplotlib.pyplot as plt

    width = n_axes * max(4.0, 1.2 * n_rules)
    _, axes = plt.subplots(
        1, n_axes, figsize=(width, 4), squeeze=False, layout="constrained"
    )
    return axes[0]


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
        'influence, split 1, epoch 10, group 1'
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
              given and predicted above them, or the images given and, if the estimator
              predicts, predicted beneath;
            - "classes": share of each class that was dropped;
            - "agreement": influence in one view against another, the first two of
              different splits where there are such.
        ax : matplotlib.axes.Axes or None, default=None
            Axes to draw on; None makes a figure. A gallery always makes its own.
        n_samples : int, default=8
            Number of samples at each end of a gallery.

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
            self.ax_ = _draw_gallery(self, n_samples)
            self.figure_ = self.ax_.flat[0].figure
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
    ax.set_xlabel(f"influence, {_name(views[0])}")
    ax.set_ylabel(f"influence, {_name(views[second])}")
    ax.legend()


def _draw_gallery(display: InfluenceDisplay, n_samples: int) -> np.ndarray:
    influence = display.report_["influence"].to_numpy()
    order = np.argsort(influence)[: np.sum(~np.isnan(influence))]
    n_columns = min(n_samples, len(order) // 2)
    numbers = np.concatenate([order[:n_columns], order[::-1][:n_columns]])
    pictures = pictures_of(display.estimator, display.X, display.y, numbers)
    captions = [caption(display.report_.iloc[number]) for number in numbers]
    axes = _grid(2 * len(pictures), n_columns, captions)
    # Both ends side by side: a line for each kind of picture.
    lines = np.hstack(np.split(axes, 2))
    for ax, text in zip(lines[0], captions, strict=True):
        ax.set_title(text, fontsize=CAPTION_SIZE)
    for line, (kind, drawn) in zip(lines, pictures.items(), strict=True):
        # What was predicted is compared with what was given.
        scales = pictures["given"] if kind == "predicted" else drawn
        for ax, values, scale in zip(line, drawn, scales, strict=True):
            draw_values(ax, values, scale)
    for position, end in ((0, "most harmful"), (n_columns, "most helpful")):
        first, *others = pictures
        lines[0, position].set_ylabel(f"{end}\n{first}" if others else end)
        for ax, kind in zip(lines[1:, position], others, strict=True):
            ax.set_ylabel(kind)
    return axes


def _grid(n_lines: int, n_columns: int, captions: list[str]) -> np.ndarray:
    """Return axes wide and high enough for the captions above two of the lines."""
    import matplotlib.pyplot as plt

    longest = max(len(line) for text in captions for line in text.split("\n"))
    width = max(SMALLEST_WIDTH, INCHES_PER_CHARACTER * longest)
    n_captions = 1 + max(text.count("\n") for text in captions)
    height = SMALLEST_WIDTH * n_lines + INCHES_PER_LINE * n_captions
    _, axes = plt.subplots(
        n_lines,
        n_columns,
        figsize=(width * n_columns, height),
        layout="constrained",
        squeeze=False,
    )
    return np.asarray(axes)


_KINDS = {
    "histogram": _draw_histogram,
    "classes": _draw_classes,
    "agreement": _draw_agreement,
}
"""Pictures on one pair of axes. To add one: a function here, and a line in `plot`."""


def _name(view: View) -> str:
    return f"split {view.split + 1}, epoch {view.epoch}, group {view.group + 1}"


def _axes(ax: Any) -> Any:
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(layout="constrained")[1]
