"""The figure of a drop curve, in the manner of scikit-learn's displays."""

from typing import Any, Self

import numpy as np

from sk_datadrop._curves import drop_curve
from sk_datadrop._gains import DropCurve
from sk_datadrop._report import check_support


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
        if ax is None:
            drawn = axes[0].get_legend_handles_labels()
            legend = self.figure_.legend(*drawn, loc="outside lower center", ncols=2)
        else:
            legend = ax.legend(fontsize="small", ncols=2)
        legend.set_title("over, mean and 95 % interval")
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
