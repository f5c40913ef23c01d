"""The views of one split: which weights, which held-out rows.

A view is one opinion on every row's influence: a split's net at one checkpoint,
measured on one group of the rows it held out.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from sklearn.base import BaseEstimator

from sk_datadrop._checks import check_count
from sk_datadrop._influence import Influence
from sk_datadrop._solvers import SolverResult

Scorer = Callable[..., list[tuple[int, Influence]]]
"""(net, checkpoints, train, held_out, ...) -> epoch and influence, by checkpoint."""


class View(NamedTuple):
    """Where a row of ``influence_per_view_`` comes from.

    `split` and `group` count from 0, `epoch` from 1 as the history of a skorch net.
    """

    split: int
    epoch: int
    group: int


class Views(BaseEstimator):
    """Which views of each split are scored.

    A view is one opinion on every row: a split, an epoch, a group of held-out rows.
    The drop rule asks how far they agree.

    Parameters
    ----------
    n_checkpoints : int, default=1
        Number of epochs scored in each split: that of the lowest held-out
        training loss and its neighbours, as far as the training goes. Each is a
        view; `Trajectory` scores their mean as one.
    n_groups : int or None, default=None
        Number of random groups of the held-out rows, each a view. None takes 1
        with three splits or more, whose disagreement is the better evidence,
        and 8 otherwise. Each group costs a pass over the rows.

    See Also
    --------
    DataDropoutClassifier : Takes it as `views`.
    Trajectory : Another way to score a view.

    Examples
    --------
    >>> from sk_datadrop import Views
    >>> Views(n_checkpoints=3)
    Views(n_checkpoints=3)
    """

    def __init__(self, n_checkpoints: int = 1, n_groups: int | None = None) -> None:
        self.n_checkpoints = n_checkpoints
        self.n_groups = n_groups

    def check_parameters(self) -> None:
        """Raise a ValueError if a parameter is out of range.

        Called before any training.

        Raises
        ------
        ValueError
            If `n_checkpoints` or `n_groups` is not a positive integer.

        See Also
        --------
        groups : How many groups a split gets.

        Examples
        --------
        >>> from sk_datadrop import Views
        >>> Views(n_checkpoints=0).check_parameters()
        Traceback (most recent call last):
            ...
        ValueError: n_checkpoints must be a positive integer; got 0.
        """
        check_count("n_checkpoints", self.n_checkpoints)
        if self.n_groups is not None:
            check_count("n_groups", self.n_groups)

    def groups(self, n_splits: int, n_held_out: int) -> int:
        """Return the number of groups of the held-out rows of a split.

        With three splits or more their disagreement is the better evidence, and one
        group does.

        Parameters
        ----------
        n_splits : int
            Number of splits of the fit.
        n_held_out : int
            Number of rows that the split holds out.

        Returns
        -------
        int
            Number of groups, at most one per row.

        See Also
        --------
        check_parameters : Whether the parameters are in range.

        Examples
        --------
        >>> from sk_datadrop import Views
        >>> Views().groups(n_splits=5, n_held_out=100)
        1
        >>> Views().groups(n_splits=1, n_held_out=100)
        8
        """
        n_groups = self.n_groups or (1 if n_splits >= 3 else 8)
        return min(int(n_groups), n_held_out)


@dataclass(frozen=True)
class RoundScores:
    """All views of one split.

    Attributes
    ----------
    train : ndarray of shape (n_views, n_train), dtype float64
    held_out : ndarray of shape (n_views, n_held_out), dtype float64
    views : list of View
    solver_results : list of SolverResult, one per system solved
    """

    train: np.ndarray
    held_out: np.ndarray
    views: list[View]
    solver_results: list[SolverResult]


def score_round(scorer: Scorer, number: int, *args, **options) -> RoundScores:
    """Score one split's rows in all of its views.

    Parameters
    ----------
    scorer : callable
        `influence_at_checkpoints` or `trajectory_influences`, with all that is
        special to it.
    number : int
        Number of the split, from 0.
    *args, **options
        Passed on to the scorer.

    Returns
    -------
    RoundScores
    """
    epochs, influences = zip(*scorer(*args, **options), strict=True)
    return RoundScores(
        train=np.concatenate([i.train for i in influences]),
        held_out=np.concatenate([i.held_out for i in influences]),
        views=[
            View(number, epoch, group)
            for epoch, i in zip(epochs, influences, strict=True)
            for group in range(len(i.train))
        ],
        # Without the solutions: vectors as long as the net, that nobody reads.
        solver_results=[
            replace(i.solver_result, solution=None)
            for i in influences
            if i.solver_result
        ],
    )
