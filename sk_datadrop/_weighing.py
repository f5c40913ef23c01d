"""Samples that count by weights, whatever the criterion: drawn that often.

Every epoch draws anew. Weights of the criterion would do the same on average, but few
criteria take any, and gradients of rare, heavy samples would be noisier.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler, Subset


class WeightedOrder(Sampler[int]):
    """Positions of samples, each as often as its weight says, give or take one.

    Systematic sampling: the expected number is exact, and a sample of weight one among
    such comes exactly once. It draws from torch's global generator, as shuffling does.
    """

    def __init__(self, weights: np.ndarray, n_draws: int, *, shuffle: bool) -> None:
        self.weights = weights
        self.n_draws = n_draws
        self.shuffle = shuffle

    def __len__(self) -> int:
        return self.n_draws

    def __iter__(self) -> Iterator[int]:
        order = torch.randperm(len(self.weights)).numpy()
        ends = np.cumsum(self.weights[order])
        ends *= self.n_draws / ends[-1]
        ticks = np.arange(self.n_draws) + float(torch.rand(()))
        drawn = order[np.minimum(np.searchsorted(ends, ticks), len(order) - 1)]
        if self.shuffle:
            drawn = drawn[torch.randperm(self.n_draws).numpy()]
        else:
            drawn = np.sort(drawn)
        yield from drawn.tolist()


class WeightedIterator:
    """The training iterator of a net, over samples drawn by weight.

    Parameters
    ----------
    iterator : callable
        ``iterator_train`` of the net, such as a DataLoader.
    weights : ndarray of shape (n_samples,), dtype float64
    same_steps : bool
        Whether as many are drawn as there are samples, or as the weights add up to.
    """

    def __init__(self, iterator: Any, weights: np.ndarray, *, same_steps: bool) -> None:
        self.iterator = iterator
        self.weights = weights
        self.same_steps = same_steps

    def __call__(self, dataset: Any, **options: Any) -> Any:
        """Make the iterator over a data set, or over what is withheld from none."""
        check_samplers(options)
        positions = _positions_in(dataset, len(self.weights))
        weights = self.weights[positions]
        n_draws = len(weights) if self.same_steps else max(1, round(weights.sum()))
        shuffle = bool(options.pop("shuffle", False))
        sampler = WeightedOrder(weights, n_draws, shuffle=shuffle)
        return self.iterator(dataset, sampler=sampler, **options)


def check_samplers(options: dict[str, Any]) -> None:
    """Raise a ValueError if options of an iterator draw samples by their positions."""
    for name in ("sampler", "batch_sampler"):
        if options.get(name) is not None:
            raise ValueError(
                f"the net has an iterator_train__{name}, which is made for all "
                "samples, and the fit trains on parts of them. Pass an iterator_train "
                "that makes it for the data set it gets: a function (dataset, "
                "**options) that returns a DataLoader, see 'Weights of samples' in the "
                "user guide."
            )


def _positions_in(dataset: Any, n_samples: int) -> np.ndarray:
    """Return which of the samples a data set holds, (n_rows,)."""
    if isinstance(dataset, Subset):
        outer = _positions_in(dataset.dataset, n_samples)
        return np.asarray(outer[np.asarray(dataset.indices)])
    if len(dataset) != n_samples:
        raise ValueError(
            f"on_harmful='weigh': the net trains on {len(dataset)} of {n_samples} "
            "samples, and does not tell on which. Let its train_split return a "
            "torch.utils.data.Subset, as skorch's ValidSplit does, or leave it out."
        )
    return np.arange(n_samples)
