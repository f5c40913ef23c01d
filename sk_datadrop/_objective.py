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
from sk_datadrop._reading import Reading, excess, mean_over_places
from sk_datadrop._samples import Samples

WELSCH_TUNING_CONSTANT = 2.985
"""Standard deviations at which Welsch's loss levels off, if it is to be 95 % as
efficient as the mean square on normal residuals. Tighter ones take samples that are
merely hard for outliers: a denoiser then drops textured patches."""

_MOST_PLACES = 4096
"""Places of a sample (such as pixels) from which scales are taken."""

Kind = str | Callable[[Tensor, Tensor], Tensor]
"""The types that `objective` accepts."""


@dataclass(frozen=True)
class HeldOutObjective:
    """The mean of an objective over held-out samples, as a function of a net.

    Attributes
    ----------
    kind : {"bounded", "loss"} or callable
        - "bounded": with classes ``1 - p ** (1 / scale)``, p being the probability of
          the given class as the outputs have it, whatever the criterion (of targets
          that are probabilities, minus the exponent of the divergence). With scale 1 it
          is the mean absolute error loss, robust to label noise (Ghosh et al. 2017,
          arXiv:1712.09482); with larger scales it is that of a power of the
          probability, which hard samples still move (Zhang & Sabuncu 2018,
          arXiv:1805.07836). Where a sample has many classes, of pixels, tokens or
          labels, it is the mean over these. With other targets it is
          ``1 - exp(-loss / scale)``: with the mean squared error Welsch's loss (Holland
          & Welsch 1977, doi:10.1080/03610927708827533).
        - "loss": the training loss itself, as in the Data Dropout paper.
        - callable: ``kind(outputs, y)`` with the module's outputs and the targets of
          a batch, returning a tensor of shape (n_samples,), lower being better.
    samples : Samples
        Held-out samples.
    reading : Reading or None
        How chances of classes are read; None if targets are no classes.
    scales : ndarray of shape (n_classes,) or (1,), dtype float64, or None
        At which "bounded" levels off, from `scaled_by`.
    lowest : float
        Loss from which "bounded" counts: the lowest, where some are negative, as minus
        the logarithm of a density may be. It changes no ratio of two gradients.
    """

    kind: Kind
    samples: Samples
    reading: Reading | None = None
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
        """Return the objective with the scales that a net calls for.

        For classes a scale is 1, or the median of minus the log-probability of the
        class, where it is given, if that is larger: where the net hardly knows a class,
        its samples are no outliers. Otherwise it is ``2.985**2`` times the median loss,
        as the median of a mean over many values is about their variance; losses count
        from the lowest if that is negative. It is one for other objectives.
        """
        if self.kind != "bounded":
            return replace(self, scales=np.ones(1))
        batches = [
            self._losses_to_scale(net, net.outputs(net.theta, X), y)
            for X, y in net.batches(self.samples, batch_size)
        ]
        losses, codes = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        if self.reading is not None:
            kinds = range(int(codes.max(initial=0)) + 1)
            medians = [
                np.median(losses[codes == k]) if k in codes else 1 for k in kinds
            ]
            return replace(self, scales=np.maximum(medians, 1.0))
        lowest = min(float(losses.min()), 0.0)
        # A net that fits half the samples exactly must not divide zero by zero.
        tiny = np.finfo(np.float32).tiny
        scale = max(WELSCH_TUNING_CONSTANT**2 * float(np.median(losses - lowest)), tiny)
        return replace(self, scales=np.array([scale]), lowest=lowest)

    def _losses_to_scale(
        self, net: FunctionalNet, outputs: Tensor, y: Tensor
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return losses and classes, of samples or of the places that they consist of.

        Of many places some, evenly spaced, are enough for medians.
        """
        if self.reading is None:
            of_samples = net.criterion_losses(outputs, y).double().cpu().numpy()
            return of_samples, np.zeros(len(of_samples), dtype=np.int64)
        log_chances, given = net.chances(outputs, y, self.reading)
        step = 1 + log_chances.shape[2] // _MOST_PLACES
        log_chances, given = log_chances[:, :, ::step], given[:, :, ::step]
        share, codes = given.max(1)
        known = share > 0.5
        losses = -log_chances.gather(1, codes[:, None])[:, 0][known]
        return losses.double().cpu().numpy(), codes[known].cpu().numpy()

    def values(self, net: FunctionalNet, theta: Tensor, X: Any, y: Tensor) -> Tensor:
        """Return the objective of each sample of a batch, shape (n_samples,)."""
        outputs = net.outputs(theta, X)
        if callable(self.kind):
            return _checked(self.kind(net.as_returned(outputs), y), len(outputs))
        if self.kind == "loss":
            return net.criterion_losses(outputs, y, weighted=True)
        scales = torch.as_tensor(1.0 if self.scales is None else self.scales)
        if self.reading is None:
            above = net.criterion_losses(outputs, y) - self.lowest
            return 1 - torch.exp(-above / scales.to(above))
        log_chances, given = net.chances(outputs, y, self.reading)
        of_classes = torch.ones(log_chances.shape[1], dtype=torch.float64)
        of_classes[: scales.numel()] = scales
        scaled = excess(log_chances, given) / of_classes.to(log_chances)[:, None]
        return mean_over_places(1 - torch.exp(-scaled.sum(1)), given.sum(1))

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
            self.values(net, net.theta, X, y)
            for X, y, _ in self._batches(net, everyone)
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
    ) -> Iterator[tuple[Any, Tensor, np.ndarray]]:
        """Yield (X, y, shares of the mean) of some of the samples."""
        weights = self.weights[mask]
        shares, start = weights / weights.sum(), 0
        for X, y in net.batches(self.samples[mask], batch_size):
            stop = start + len(y)
            yield X, y, shares[start:stop]
            start = stop

    @torch.enable_grad()
    def _gradient(
        self, net: FunctionalNet, mask: np.ndarray, batch_size: int | None
    ) -> Tensor:
        """Return the gradient of the mean over some samples, (n_parameters,)."""
        total = torch.zeros_like(net.theta)
        for X, y, shares in self._batches(net, mask, batch_size):
            theta = net.theta.clone().requires_grad_()
            values = self.values(net, theta, X, y)
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
        for X, y, _ in self._batches(net, everyone, batch_size):
            check_not_nan(net.outputs(net.theta, X), "those held out")
            values = self.values(net, net.theta, X, y)
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
