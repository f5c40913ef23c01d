"""The interface of engines: how the samples of a split are scored, and in which views.

A view is one opinion on the influence of every sample: the net of a split at one
epoch, measured on one group of the samples it held out.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import NamedTuple

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_scalar

from sk_datadrop._functional import FunctionalNet
from sk_datadrop._objective import HeldOutObjective
from sk_datadrop._samples import Samples
from sk_datadrop._solvers import SolverResult
from sk_datadrop._training import Training


class View(NamedTuple):
    """Origin of one row of ``influence_per_view_``.

    The net of a split at one epoch, measured on one group of its held-out samples.

    Parameters
    ----------
    split : int
        Number of the split, from 0.
    epoch : int
        Epoch whose weights were used, from 1 as in the history of a skorch net.
    group : int
        Number of the group of held-out samples, from 0.

    See Also
    --------
    InfluenceFunctions : Its parameters set the number of views.

    Examples
    --------
    >>> from sk_datadrop import View
    >>> View(split=0, epoch=7, group=0).epoch
    7
    """

    split: int
    epoch: int
    group: int


@dataclass(frozen=True)
class Request:
    """Options that an engine is given besides training, samples and objective.

    The seed serves all random draws; there are `n_groups` random groups of the held-out
    samples, each a view; `number` is that of the split. The batch size changes the
    result by rounding only, `n_jobs` processes may share the work, and `on_product` is
    to be called after every product, to show that work goes on.
    """

    seed: int
    n_groups: int = 1
    number: int = 0
    score_held_out: bool = True
    batch_size: int | None = None
    n_jobs: int | None = None
    on_product: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class Scores:
    """Influence of the samples of a split, in all of its views.

    Attributes
    ----------
    train : ndarray of shape (n_views, n_train), dtype float64
        Influence of the samples the net was trained on; NaN where not scored.
    held_out : ndarray of shape (n_views, n_held_out), dtype float64
        Influence of the held-out samples, were they trained on: each is measured on
        groups it is not in. NaN where no such group is left, where the first order
        goes beyond what the objective can change by, or where they are not scored.
    solver_results : list of SolverResult
        One per system solved, without the solutions.
    derivative : str or None
        How the outputs were differentiated along directions: a key of `METHODS`.
    """

    train: np.ndarray
    held_out: np.ndarray
    views: list[View]
    solver_results: list[SolverResult]
    derivative: str | None = None


class Engine(BaseEstimator, ABC):
    """A way to score the samples of a training. Subclasses are final."""

    n_checkpoints: int
    n_groups: int | None

    @abstractmethod
    def _check_parameters(self) -> None:
        """Raise an error if a parameter of its own is out of range."""

    def _check_net(self, net: FunctionalNet, samples: Samples) -> None:
        """Raise a ValueError if samples of an untrained net cannot be scored."""

    @abstractmethod
    def _score(
        self,
        training: Training,
        train: Samples,
        objective: HeldOutObjective,
        request: Request,
    ) -> Scores:
        """Score the samples of a training, and those held out."""


def check_net(engine: Engine, net: FunctionalNet, samples: Samples) -> None:
    """Raise a ValueError if an engine cannot score a net that is not trained yet."""
    engine._check_net(net, samples)


def check_engine(engine: Engine) -> None:
    """Raise a TypeError or ValueError if a parameter is out of range."""
    check_scalar(engine.n_checkpoints, "n_checkpoints", Integral, min_val=1)
    if engine.n_groups is not None:
        check_scalar(engine.n_groups, "n_groups", Integral, min_val=1)
    engine._check_parameters()


def score(
    engine: Engine,
    training: Training,
    train: Samples,
    objective: HeldOutObjective,
    request: Request,
) -> Scores:
    """Score the samples of a training, and those held out."""
    return engine._score(training, train, objective, request)


def n_groups_of(engine: Engine, n_splits: int, n_held_out: int) -> int:
    """Return the number of groups of the held-out samples of a split.

    With three splits or more their disagreement is the better evidence, and one group
    is enough.
    """
    n_groups = engine.n_groups or (1 if n_splits >= 3 else 8)
    return min(int(n_groups), n_held_out)


def split_groups(
    codes: np.ndarray, n_groups: int, random_state: np.random.Generator
) -> np.ndarray:
    """Assign held-out samples to groups at random, by their classes.

    Returns the number of the group of each, shape (n_samples,). Groups are of equal
    size, with the same share of each class: a sample of a rare class needs others of
    its class in the groups that score it.
    """
    order = random_state.permutation(len(codes))
    order = order[np.argsort(codes[order], kind="stable")]
    groups = np.empty(len(codes), dtype=np.int64)
    groups[order] = np.arange(len(codes)) % n_groups
    return groups
