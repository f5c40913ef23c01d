"""Pictures of what was found, as scikit-learn's displays draw theirs."""

import numpy as np

from sk_datadrop._curves import DropCurve, drop_curve


class DropCurveDisplay:
    """Gain of data dropout over no dropout and a random drop, by the share dropped.

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
    def from_estimator(cls, estimator, X, y, *, ax=None, **options):
        """Measure with :func:`drop_curve` and draw.

        Parameters
        ----------
        estimator : DataDropoutClassifier or DataDropoutRegressor
            Not fitted.
        X, y : array-like of shape (n_samples, ...)
            Rows.
        ax : matplotlib.axes.Axes or None, default=None
            Axes to draw on; None makes a figure.
        **options : dict
            Of :func:`drop_curve`.

        Returns
        -------
        DropCurveDisplay
        """
        return cls(drop_curve(estimator, X, y, **options)).plot(ax)

    def plot(self, ax=None):
        """Draw the gains with their 95 % intervals.

        Parameters
        ----------
        ax : matplotlib.axes.Axes or None, default=None
            Axes to draw on; None makes a figure.

        Returns
        -------
        DropCurveDisplay
            Itself.
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
                yerr=[mean - low, high - mean],
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


def _axes(ax):
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(layout="constrained")[1]
