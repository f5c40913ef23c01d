"""Curvature of the training loss: products with a damped matrix, never the matrix.

Damping is relative to the largest absolute eigenvalue and to the scale of each
parameter, and belongs to the operator, so that every solver solves the same system.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from math import isnan
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import check_scalar
from torch import Tensor

from sk_datadrop._convexity import (
    expected_curvature,
    is_concave,
    is_flat,
    output_hessian,
    second_derivatives,
)
from sk_datadrop._derivatives import measured_graphs, pullback
from sk_datadrop._functional import FunctionalNet
from sk_datadrop._samples import Samples

_MAX_BATCH, _MAX_RECURRENT_BATCH = 128, 512
"""Largest numbers of samples in a batch: larger ones are no faster. Recurrent layers
take many small steps, which cost as much for few samples as for many."""

_N_MEASURED = 8
"""Number of samples on which the memory per sample is measured."""

_MIN_SCALE = 0.03
"""Smallest scale of a tensor, relative to the mean: one of a single parameter may be
small by chance, as random signs cancel."""


@dataclass(frozen=True)
class CurvatureOperator:
    """A symmetric matrix A by its products, and the damping that goes with it.

    ``product(v)`` returns ``A @ v`` for v of shape (n_parameters,), without damping,
    and `scale` is the positive diagonal of D. Graphs of `n_at_a_time` samples fit into
    the memory that it may use. The damping is relative: the system to
    solve is ``(A + damping * top_eigenvalue * D) x = b`` with `top_eigenvalue` the
    largest absolute eigenvalue of ``D^(-1/2) A D^(-1/2)``.
    """

    product: Callable[[Tensor], Tensor]
    size: int
    damping: float
    scale: Tensor | float = 1.0
    n_at_a_time: int = 1

    def standardised(self) -> "CurvatureOperator":
        """Return ``D^(-1/2) A D^(-1/2)``: in its variables the scale is one."""
        root = self.scale**0.5
        return replace(self, product=lambda v: self.product(v / root) / root, scale=1.0)

    def shift(self, top_eigenvalue: float) -> float:
        """Absolute damping of a parameter of scale one."""
        return self.damping * top_eigenvalue


class Curvature(BaseEstimator, ABC):
    """Recipe for a `CurvatureOperator` at a given net and its training samples.

    The matrix is a mean over some of the samples, drawn once: all products see the
    same matrix. Subclasses are final.
    """

    def __init__(
        self,
        damping: float = 0.1,
        scaling: str | None = None,
        n_samples: int | None = 256,
        max_memory: float = 1e9,
    ) -> None:
        self.damping = damping
        self.scaling = scaling
        self.n_samples = n_samples
        self.max_memory = max_memory

    def _suited_to(self, net: FunctionalNet, samples: Samples) -> "Curvature":
        """Return the recipe for a net and the samples of the mean."""
        return self

    @abstractmethod
    def _batch_product(
        self, net: FunctionalNet, X: Tensor, y: Tensor
    ) -> Callable[[Tensor], Tensor]:
        """Return v -> A v with A the sum over the samples of one batch."""


def check_curvature(curvature: Curvature) -> None:
    """Raise a TypeError or ValueError if a parameter is out of range."""
    check_positive("damping", curvature.damping)
    if curvature.scaling not in ("tensor", None):
        raise ValueError(
            f"scaling must be 'tensor' or None; got {curvature.scaling!r}."
        )
    if curvature.n_samples is not None:
        check_scalar(curvature.n_samples, "n_samples", Integral, min_val=1)
    check_positive("max_memory", curvature.max_memory)


def check_loss_suits(
    curvature: Curvature, net: FunctionalNet, samples: Samples
) -> None:
    """Raise a ValueError if a curvature needs more derivatives than the loss has."""
    if isinstance(curvature, Hessian) and None in second_derivatives(net, samples):
        raise ValueError(
            "curvature=Hessian(...) needs the second derivative of the loss, which "
            f"torch does not have for {type(net.skorch_net.criterion_).__name__}. "
            "Choose GaussNewton(), or another criterion."
        )


def check_positive(name: str, value: Any) -> None:
    """Raise a TypeError or ValueError unless `value` is a positive number."""
    check_scalar(value, name, Real, min_val=0, include_boundaries="neither")
    # NaN is on neither side of a bound.
    if isnan(value):
        raise ValueError(f"{name} == nan, must be > 0.")


def curvature_operator(
    curvature: Curvature,
    net: FunctionalNet,
    samples: Samples,
    *,
    random_state: np.random.Generator,
    on_product: Callable[[], object] = lambda: None,
) -> CurvatureOperator:
    """Build the operator for the mean loss of samples.

    The samples of the mean are drawn here, once: all products are with the same matrix.

    `on_product` is called without arguments after every product.
    """
    drawn = samples[_drawn(len(samples), curvature.n_samples, random_state)]
    curvature = curvature._suited_to(net, drawn)
    size = _samples_at_a_time(curvature, net, drawn)
    kept = _products_that_fit(curvature, net, drawn, size)
    others = drawn[len(kept) * size :]

    def product(v: Tensor) -> Tensor:
        total = torch.zeros_like(v)
        for batch_product in chain(kept, _batch_products(curvature, net, others, size)):
            total += batch_product(v)
        on_product()
        return total / len(drawn)

    scale = _tensor_scale(net, product) if curvature.scaling else 1.0
    return CurvatureOperator(product, len(net.theta), curvature.damping, scale, size)


def _drawn(
    n_available: int, n_samples: int | None, random_state: np.random.Generator
) -> np.ndarray:
    if n_samples is None or n_samples >= n_available:
        return np.arange(n_available)
    return np.sort(random_state.choice(n_available, n_samples, replace=False))


def _batch_products(
    curvature: Curvature, net: FunctionalNet, samples: Samples, size: int
) -> Iterator[Callable[[Tensor], Tensor]]:
    if len(samples):
        for X, y in net.batches(samples, size):
            yield curvature._batch_product(net, X, y)


def _samples_at_a_time(
    curvature: Curvature, net: FunctionalNet, samples: Samples
) -> int:
    """Return the number of samples whose graphs stay within `max_memory`."""
    few = min(_N_MEASURED, len(samples))
    with measured_graphs(net.theta) as n_bytes:
        _ = list(_batch_products(curvature, net, samples[:few], few))
        per_sample = max(n_bytes() / few, 1)
    largest = _MAX_RECURRENT_BATCH if net.is_recurrent else _MAX_BATCH
    return int(np.clip(curvature.max_memory / per_sample, 1, largest))


def _products_that_fit(
    curvature: Curvature, net: FunctionalNet, samples: Samples, size: int
) -> list[Callable[[Tensor], Tensor]]:
    """Return products of the first batches, whose graphs are kept for all products."""
    kept = []
    with measured_graphs(net.theta) as n_bytes:
        for batch_product in _batch_products(curvature, net, samples, size):
            if n_bytes() > curvature.max_memory:
                break
            kept.append(batch_product)
    return kept


def _tensor_scale(net: FunctionalNet, product: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the root mean square of A z in each tensor, (n_parameters,).

    z has random signs, always the same, so this is the size of the rows of A there: it
    follows that of the derivatives of the outputs. It is relative to the mean over all
    parameters, so one where there is one tensor.
    """
    signs = np.random.default_rng(0).integers(2, size=len(net.theta)) * 2 - 1
    z = torch.as_tensor(signs).to(net.theta)
    size = net.mean_per_tensor(product(z).square()).sqrt()
    # A tensor that moves no output has no curvature to compare with.
    smallest = _MIN_SCALE * size.mean() + torch.finfo(size.dtype).tiny
    size = size.clamp(min=float(smallest))
    return size / size.mean()


class GaussNewton(Curvature):
    """Generalised Gauss-Newton matrix of the mean training loss.

    ``A = mean_i J_i^T H_i J_i`` with J_i the Jacobian of the outputs of sample i by
    the parameters and H_i the Hessian of its loss by the outputs, computed by
    automatic differentiation. The matrix is positive semi-definite if the loss is
    convex in the outputs; for cross-entropy it is the Fisher information. H_i is
    replaced by one number for all samples if the loss has kinks instead of a second
    derivative (absolute, quantile and hinge losses), if torch does not implement the
    derivative (MultiMarginLoss), or if it is negative for many samples (Dice,
    generalised cross-entropy). The number is the mean squared gradient by an output
    over the median loss. It is the Fisher information if the loss is minus a
    log-likelihood, such as Laplace's for absolute errors.

    Parameters
    ----------
    damping : float, default=0.03
        Added to the diagonal, relative to the largest eigenvalue. Less predicts
        retraining a little better and takes more products; more finds wrong labels as
        well. An absolute damping does not transfer from one net to another.
    scaling : "tensor" or None, default="tensor"
        "tensor" damps the parameters of each tensor (a weight, a bias) in proportion to
        the size of its rows of A, in the spirit of Marquardt: those of a first and a
        last layer differ by orders of magnitude. None damps all parameters alike.
    n_samples : int or None, default=256
        Number of training samples in the mean, drawn once without replacement.
        None, or more than there are, uses all. On noisy digits 256, 512 and 1,500
        samples ranked the wrong labels alike.
    max_memory : float, default=1e9
        Bytes for the graphs of backpropagation. Graphs that fit are built once and
        kept; the others are built again in every product, in batches that fit. It
        changes the result by rounding only.

    See Also
    --------
    Hessian : Includes the part that can be negative.
    Lanczos : Solves systems with it.

    References
    ----------
    Schraudolph (2002), doi:10.1162/08997660260028683; Martens (2020),
    arXiv:1412.1193; Marquardt (1963), doi:10.1137/0111030.

    Examples
    --------
    >>> from sk_datadrop import GaussNewton
    >>> GaussNewton(damping=0.05).get_params()["damping"]
    0.05
    """

    def __init__(
        self,
        damping: float = 0.03,
        scaling: str | None = "tensor",
        n_samples: int | None = 256,
        max_memory: float = 1e9,
    ) -> None:
        super().__init__(damping, scaling, n_samples, max_memory)

    def _suited_to(self, net: FunctionalNet, samples: Samples) -> Curvature:
        if not (is_flat(net, samples) or is_concave(net, samples)):
            return self
        curvature = _Isotropic(
            self.damping, self.scaling, self.n_samples, self.max_memory
        )
        curvature.size = expected_curvature(net, samples)
        return curvature

    def _batch_product(
        self, net: FunctionalNet, X: Tensor, y: Tensor
    ) -> Callable[[Tensor], Tensor]:
        """Return v -> sum_i J_i^T H_i J_i v over one batch.

        The point stays the same for all products, so the graphs of H u and J^T u
        are built once and kept. In forward mode J v is differentiated again:
        torch.func.linearize would need forty products to earn its tracing back.
        """
        z, jacobian, jacobian_transpose = net.linearised(X)
        hessian = output_hessian(net, z, y)

        def product(v: Tensor) -> Tensor:
            return jacobian_transpose(hessian(jacobian(v)))

        return product


class _Isotropic(GaussNewton):
    """Gauss-Newton matrix with one number for the Hessian by the outputs."""

    size = 1.0

    def _batch_product(
        self, net: FunctionalNet, X: Tensor, y: Tensor
    ) -> Callable[[Tensor], Tensor]:
        """Return v -> size sum_i J_i^T J_i v over one batch."""
        _, jacobian, transpose = net.linearised(X)
        return lambda v: transpose(self.size * jacobian(v))


class Hessian(Curvature):
    """Hessian of the mean training loss by the parameters.

    Koh and Liang use this matrix and assume that the loss is at a minimum. Trained
    nets are rarely at one. The Hessian then has negative eigenvalues, which reverse the
    sign of influences unless the damping exceeds them. If it does not, solvers refuse
    the system, and a warning names a damping that would be enough.

    Parameters
    ----------
    damping : float, default=0.1
        Added to the diagonal, relative to the largest absolute eigenvalue. More
        than 1 makes every matrix positive definite.
    scaling : "tensor" or None, default=None
        As for `GaussNewton`.
    n_samples : int or None, default=256
        Number of training samples in the mean.
    max_memory : float, default=1e9
        Bytes for the graphs of backpropagation, as for `GaussNewton`.

    See Also
    --------
    GaussNewton : Leaves out the part that can be negative.

    References
    ----------
    Pearlmutter (1994), doi:10.1162/neco.1994.6.1.147; Koh & Liang (2017),
    arXiv:1703.04730.

    Examples
    --------
    >>> from sk_datadrop import Hessian
    >>> Hessian(damping=0.5).get_params()["damping"]
    0.5
    """

    def _batch_product(
        self, net: FunctionalNet, X: Tensor, y: Tensor
    ) -> Callable[[Tensor], Tensor]:
        """Return v -> sum_i (Hessian of the loss of sample i) v over one batch.

        The gradient does not depend on v: its graph is built once and kept, and a
        product is one backward pass through it.
        """

        def gradient(theta: Tensor) -> Tensor:
            loss = net.natural_losses(net.natural_outputs(theta, X), y).sum()
            return torch.autograd.grad(loss, theta, create_graph=True)[0]

        # Symmetric, so its vector-Jacobian product serves.
        return pullback(gradient, net.theta)[1]
