"""The objective on held-out samples: one number per sample, lower is better.

The training loss is unbounded: a few held-out samples with wrong targets dominate
its mean and turn the scores upside down. The default squashes it into [0, 1), class by
class, or it would take the samples of a rare or difficult class for outliers.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from sys import float_info
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sk_datadrop._functional import FunctionalNet
from sk_datadrop._net_checks import check_not_nan
from sk_datadrop._samples import Samples

WELSCH_TUNING_CONSTANT = 2.985
"""Standard deviations at which Welsch's loss levels off, if it is to be 95 % as
efficient as the mean square on normal residuals. Tighter ones take samples that are
merely hard for outliers: a denoiser then drops textured patches."""

Kind = str | Callable[[Tensor, Tensor], Tensor]
"""What users pass as `objective`."""


@dataclass(frozen=True)
class HeldOutObjective:
    """The mean of an objective over held-out samples, as a function of a net.

    Attributes
    ----------
    kind : {"bounded", "loss"} or callable
        - "bounded": ``1 - exp(-loss / scale)``. With a log-likelihood loss and
          scale 1 it is one minus the probability of the given class, the mean
          absolute error loss, robust to label noise (Ghosh et al. 2017,
          arXiv:1712.09482); with larger scales it is that of a power of the
          probability, which hard samples still move (Zhang & Sabuncu 2018,
          arXiv:1805.07836). With the mean squared error it is Welsch's loss (Holland &
          Welsch 1977, doi:10.1080/03610927708827533).
        - "loss": the training loss itself, as in the Data Dropout paper.
        - callable: ``kind(outputs, y)`` with the module's outputs and the targets of
          a batch, returning a tensor of shape (n_samples,), lower being better.
    samples : Samples
        Held-out samples.
    scales : ndarray of shape (n_held_out,), dtype float64, or None
        Losses at which "bounded" levels off, from `scaled_by`.
    lowest : float
        Loss from which "bounded" counts: the lowest, where some are negative, as minus
        the logarithm of a density may be. It changes no ratio of two gradients.
    """

    kind: Kind
    samples: Samples
    scales: np.ndarray | None = None
    lowest: float = 0.0

    @cached_property
    def codes(self) -> np.ndarray:
        """Class of every held-out sample, (n_held_out,); zeros without classes."""
        if self.samples.codes is None:
            return np.zeros(len(self.samples), dtype=np.int64)
        return np.unique(self.samples.codes, return_inverse=True)[1]

    @cached_property
    def weights(self) -> np.ndarray:
        """Weights of the samples in the mean, shape (n_held_out,).

        For "bounded" one over the number of samples of the class, so that the mean is
        that over the classes, as in balanced accuracy (Brodersen et al. 2010,
        doi:10.1109/ICPR.2010.764). Otherwise one.
        """
        if self.kind != "bounded":
            return np.ones(len(self.samples))
        codes = self.codes
        weights: np.ndarray = 1 / np.bincount(codes)[codes]
        return weights

    @property
    def largest_change(self) -> float:
        """Bound on the change of the mean when a sample is left out of training."""
        # Less than infinity, which is no score.
        return 1.0 if self.kind == "bounded" else float_info.max

    @torch.no_grad()
    def scaled_by(
        self, net: FunctionalNet, batch_size: int | None = None
    ) -> "HeldOutObjective":
        """Return the objective with the scales that the losses of a net call for.

        For classes a scale is 1, or the median loss of the class if that is larger:
        where the net hardly knows a class, its samples are no outliers. Otherwise it
        is ``2.985**2`` times the median loss, as the median of a mean over many values
        is about their variance. It is one for other objectives. Losses count from the
        lowest if that is negative.
        """
        if self.kind != "bounded":
            return replace(self, scales=np.ones(len(self.samples)))
        losses = np.concatenate(
            [
                net.criterion_losses(net.outputs(net.theta, X), y).double().cpu()
                for X, y in net.batches(self.samples, batch_size)
            ]
        )
        lowest = min(float(losses.min()), 0.0)
        losses, codes = losses - lowest, self.codes
        medians = np.array([np.median(losses[codes == c]) for c in np.unique(codes)])
        if self.samples.codes is not None:
            scales = np.maximum(medians, 1.0)
            return replace(self, scales=scales[codes], lowest=lowest)
        # A net that fits half the samples exactly must not divide zero by zero.
        tiny = np.finfo(np.float32).tiny
        scales = np.maximum(WELSCH_TUNING_CONSTANT**2 * medians, tiny)
        return replace(self, scales=scales[codes], lowest=lowest)

    def values(
        self, net: FunctionalNet, theta: Tensor, X: Any, y: Tensor, scales: Any
    ) -> Tensor:
        """Return the objective of each sample of a batch, shape (n_samples,)."""
        outputs = net.outputs(theta, X)
        if callable(self.kind):
            return _checked(self.kind(outputs, y), len(outputs))
        losses = net.criterion_losses(outputs, y, weighted=self.kind == "loss")
        if self.kind == "loss":
            return losses
        above = losses - self.lowest
        return 1 - torch.exp(-above / torch.as_tensor(scales).to(losses))

    def gradients(
        self, net: FunctionalNet, groups: np.ndarray, batch_size: int | None = None
    ) -> Tensor:
        """Return the gradients of the means over groups, (n_parameters, n_groups).

        `groups` has the number of the group of every held-out sample, from 0. Raises a
        ValueError if the objective is NaN or infinite for some samples, or does not
        depend on the parameters.
        """
        masks = [groups == group for group in range(groups.max() + 1)]
        gradients = [self._gradient(net, mask, batch_size) for mask in masks]
        stacked = torch.stack(gradients, dim=1)
        if not stacked.isfinite().all():
            self._check_finite(net, batch_size)
        return stacked

    @torch.no_grad()
    def mean(self, net: FunctionalNet) -> float:
        """Return the mean over the held-out samples.

        Raises a ValueError if it is NaN or infinite.
        """
        everyone = np.ones(len(self.samples), dtype=bool)
        values = [
            self.values(net, net.theta, X, y, scales)
            for X, y, scales, _ in self._batches(net, everyone)
        ]
        of_samples = torch.cat(values).double().cpu()
        mean = float(np.average(of_samples, weights=self.weights))
        if not np.isfinite(mean):
            raise ValueError(
                f"the held-out objective of the trained net is {mean}. Check objective "
                "and criterion on the held-out samples, scale X and y, or lower the "
                "learning rate."
            )
        return mean

    def _batches(
        self, net: FunctionalNet, mask: np.ndarray, batch_size: int | None = None
    ) -> Iterator[tuple[Any, Tensor, np.ndarray, np.ndarray]]:
        """Yield (X, y, scales, shares of the mean) of some of the samples."""
        scales = np.ones(len(mask)) if self.scales is None else self.scales
        scales, weights = scales[mask], self.weights[mask]
        shares, start = weights / weights.sum(), 0
        for X, y in net.batches(self.samples[mask], batch_size):
            stop = start + len(y)
            yield X, y, scales[start:stop], shares[start:stop]
            start = stop

    @torch.enable_grad()
    def _gradient(
        self, net: FunctionalNet, mask: np.ndarray, batch_size: int | None
    ) -> Tensor:
        """Return the gradient of the mean over some samples, (n_parameters,)."""
        total = torch.zeros_like(net.theta)
        for X, y, scales, shares in self._batches(net, mask, batch_size):
            theta = net.theta.clone().requires_grad_()
            values = self.values(net, theta, X, y, scales)
            if not values.requires_grad:
                raise ValueError(
                    "the held-out objective does not follow the parameters: no "
                    "gradient reaches them. Give objective something smooth in the "
                    "outputs, without argmax, comparison, rounding or `detach`."
                )
            mean = values @ torch.as_tensor(shares).to(total).to(values)
            total += torch.autograd.grad(mean, theta)[0]
        return total

    @torch.no_grad()
    def _check_finite(self, net: FunctionalNet, batch_size: int | None) -> None:
        """Raise a ValueError if samples are to blame for a gradient that is NaN."""
        n_bad = 0
        everyone = np.ones(len(self.samples), dtype=bool)
        for X, y, scales, _ in self._batches(net, everyone, batch_size):
            check_not_nan(net.outputs(net.theta, X), "those held out")
            values = self.values(net, net.theta, X, y, scales)
            n_bad += int((~values.isfinite()).sum())
        if n_bad:
            raise ValueError(
                f"the held-out objective is NaN or infinite for {n_bad} of "
                f"{len(everyone)} held-out samples. Check objective and criterion on "
                "these samples, scale X and y, or lower the learning rate."
            )


def check_objective(objective: Any) -> None:
    """Raise a ValueError unless `objective` is known or callable."""
    if objective not in ("bounded", "loss") and not callable(objective):
        raise ValueError(
            "objective must be 'bounded', 'loss' or a callable "
            f"(outputs, y) -> tensor of shape (n_samples,); got {objective!r}."
        )


def _checked(values: Any, n_samples: int) -> Tensor:
    if not isinstance(values, Tensor) or values.shape != (n_samples,):
        got = tuple(values.shape) if isinstance(values, Tensor) else values
        raise ValueError(
            f"objective must return a tensor of shape ({n_samples},), one value per "
            f"sample; got {got!r}."
        )
    return values
