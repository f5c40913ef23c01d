"""Curvature of the training loss: products with a damped matrix, never the matrix.

Damping is relative to the largest absolute eigenvalue and to the scale of each
parameter, and belongs to the operator, so that every solver solves the same system.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch import Tensor
from torch.func import grad, vjp

from sk_datadrop._derivatives import pullback
from sk_datadrop._functional import FunctionalNet

_SMALLEST_SCALE = 1e-3
"""Of a tensor, relative to the mean: keeps rounding from being taken for curvature."""


@dataclass(frozen=True)
class CurvatureOperator:
    """A symmetric matrix A by its products, and the damping that goes with it.

    Attributes
    ----------
    product : callable
        ``product(v)`` returns ``A @ v`` for v of shape (n_parameters,),
        without damping.
    size : int
        Number of parameters.
    damping : float
        Relative damping: the system to solve is
        ``(A + damping * top_eigenvalue * D) x = b`` with `top_eigenvalue` the
        largest absolute eigenvalue of ``D^(-1/2) A D^(-1/2)``. A solver that finds
        this matrix not to be positive definite refuses to solve.
    scale : Tensor of shape (n_parameters,) or float, default=1.0
        The diagonal of D, positive.
    """

    product: Callable[[Tensor], Tensor]
    size: int
    damping: float
    scale: Tensor | float = 1.0

    def standardised(self) -> "CurvatureOperator":
        """Return ``D^(-1/2) A D^(-1/2)``: in its variables the scale is one."""
        root = self.scale**0.5
        return replace(self, product=lambda v: self.product(v / root) / root, scale=1.0)

    def shift(self, top_eigenvalue: float) -> float:
        """Absolute damping of a parameter of scale one."""
        return self.damping * top_eigenvalue


class Curvature(BaseEstimator, ABC):
    """Recipe for a `CurvatureOperator` at a given net and its training rows.

    The matrix is a mean over a sample of the rows, drawn once: all products see
    the same matrix.
    """

    def __init__(
        self,
        damping: float = 0.1,
        scaling: str | None = None,
        n_samples: int | None = 256,
        batch_size: int = 128,
    ) -> None:
        self.damping = damping
        self.scaling = scaling
        self.n_samples = n_samples
        self.batch_size = batch_size

    @abstractmethod
    def _batch_product(
        self, net: FunctionalNet, X: Tensor, y: Tensor
    ) -> Callable[[Tensor], Tensor]:
        """Return v -> A v with A the sum over the rows of one batch."""

    def operator(
        self,
        net: FunctionalNet,
        X,
        y,
        *,
        random_state,
        on_product: Callable[[], object] = lambda: None,
    ) -> CurvatureOperator:
        """Build the operator for the mean loss of the rows of (X, y).

        Parameters
        ----------
        net : FunctionalNet
            Net at whose parameters the curvature is taken.
        X, y : array-like of shape (n_samples, ...)
            Training rows.
        random_state : numpy.random.Generator
            Draws the rows.
        on_product : callable
            Called without arguments after every product.

        Returns
        -------
        CurvatureOperator

        Raises
        ------
        ValueError
            If a parameter is out of range.
        """
        self.check_parameters()
        rows = self._sample_rows(len(X), random_state)
        batch_products = [
            self._batch_product(net, Xb, yb)
            for Xb, yb in net.batches(X[rows], y[rows], self.batch_size)
        ]

        def product(v: Tensor) -> Tensor:
            total = torch.zeros_like(v)
            for batch_product in batch_products:
                total += batch_product(v)
            on_product()
            return total / len(rows)

        scale = _tensor_scale(net, product) if self.scaling else 1.0
        return CurvatureOperator(product, net.theta.numel(), self.damping, scale)

    def _sample_rows(self, n_available: int, rng) -> np.ndarray:
        if self.n_samples is None or self.n_samples >= n_available:
            return np.arange(n_available)
        return np.sort(rng.choice(n_available, self.n_samples, replace=False))

    def check_parameters(self) -> None:
        """Raise a ValueError if a parameter is out of range."""
        if not isinstance(self.damping, Real) or not self.damping > 0:
            raise ValueError(
                f"damping must be a positive number, relative to the largest "
                f"eigenvalue; got {self.damping!r}."
            )
        if self.scaling not in ("tensor", None):
            raise ValueError(f"scaling must be 'tensor' or None; got {self.scaling!r}.")
        for name in ("n_samples", "batch_size"):
            value = getattr(self, name)
            if name == "n_samples" and value is None:
                continue
            if not isinstance(value, Integral) or value < 1:
                raise ValueError(f"{name} must be a positive integer; got {value!r}.")


def _tensor_scale(net: FunctionalNet, product) -> Tensor:
    """Root mean square of A theta in each tensor of parameters, (n_parameters,).

    Relative to the mean over all parameters, so one where there is one tensor.
    Where the outputs are piecewise linear in the parameters of each layer, A theta
    follows the size of the derivatives of the outputs; unlike an estimate of the
    diagonal it needs no random numbers, and so not the order of the rows.
    """
    size = net.mean_per_tensor(product(net.theta).square()).sqrt()
    # A tensor that moves no output has no curvature to compare with.
    smallest = _SMALLEST_SCALE * size.mean() + torch.finfo(size.dtype).tiny
    size = size.clamp(min=float(smallest))
    return size / size.mean()


class GaussNewton(Curvature):
    """Generalised Gauss-Newton matrix of the mean training loss.

    ``A = mean_i J_i^T H_i J_i`` with J_i the Jacobian of the outputs of row i by
    the parameters and H_i the Hessian of its loss by the outputs, taken by
    automatic differentiation. Positive semi-definite whenever the loss is convex
    in the outputs; for cross-entropy it is the Fisher information.

    Parameters
    ----------
    damping : float, default=0.1
        Added to the diagonal, relative to the largest eigenvalue. 0.1 was best or
        near best at finding wrong labels, 0.03 and less at predicting retraining;
        absolute damping transfers from no net to another.
    scaling : "tensor" or None, default=None
        - None: the same damping for all parameters.
        - "tensor": the damping of the parameters of a tensor (a weight, a bias) is in
          proportion to the size of their curvature, the root mean square of A theta,
          in the spirit of Marquardt. A first layer and a last one differ by orders of
          magnitude, and what is little for one is much for the other. Together with a
          damping of 0.03 it predicts retraining better.
    n_samples : int or None, default=256
        Number of training rows the mean is taken over, drawn once without
        replacement. None, or more than there are, takes all rows. On noisy
        digits 256, 512 and 1,500 rows ranked the wrong labels alike.
    batch_size : int, default=128
        Rows per product. Bounds memory and does not change the result beyond
        rounding.

    References
    ----------
    Schraudolph (2002). Fast curvature matrix-vector products for second-order
    gradient descent. doi:10.1162/08997660260028683

    Martens (2020). New insights and perspectives on the natural gradient
    method. arXiv:1412.1193

    Marquardt (1963). An algorithm for least-squares estimation of nonlinear
    parameters. doi:10.1137/0111030

    Examples
    --------
    >>> from sk_datadrop import GaussNewton
    >>> GaussNewton(damping=0.05).get_params()["damping"]
    0.05
    """

    def _batch_product(self, net, X, y):
        """Return v -> sum_i J_i^T H_i J_i v over one batch.

        The point stays the same for all products, so the graphs of H u and J^T u
        are made once and kept. J v is differentiated anew: torch.func.linearize
        would take forty products to earn its tracing back.
        """

        def outputs(theta):
            return net.outputs(theta, X)

        def total_loss(z):
            return net.losses(z, y).sum()

        z, jacobian_transpose = pullback(outputs, net.theta)
        # The output Hessian is symmetric, so its vector-Jacobian product serves;
        # forward mode over grad(mse_loss) raises in torch 2.14.
        hessian = vjp(grad(total_loss), z)[1]

        def product(v: Tensor) -> Tensor:
            (HJv,) = hessian(net.jvp(X, v)[1], retain_graph=True)
            return jacobian_transpose(HJv)

        return product


class Hessian(Curvature):
    """Hessian of the mean training loss by the parameters.

    The matrix of the influence functions of Koh and Liang, who assume a minimum.
    Trained nets are rarely at one: the Hessian then has negative eigenvalues,
    along which the formula would turn influences around. Damping mends that as
    long as it exceeds them. If the damped matrix is not positive definite, the
    solvers refuse, the round is not scored, and a warning names the damping that
    it would take. `GaussNewton` leaves out the part that can be negative.

    Parameters
    ----------
    damping : float, default=0.1
        Added to the diagonal, relative to the largest absolute eigenvalue. More
        than 1 makes every matrix positive definite.
    scaling : "tensor" or None, default=None
        Whether the damping of a tensor of parameters is in proportion to the size of
        their curvature, as for `GaussNewton`, or the same for all.
    n_samples : int or None, default=256
        Number of training rows the mean is taken over, drawn once without
        replacement. None, or more than there are, takes all rows.
    batch_size : int, default=128
        Rows per product. Does not change the result beyond rounding.

    References
    ----------
    Pearlmutter (1994). Fast exact multiplication by the Hessian.
    doi:10.1162/neco.1994.6.1.147

    Koh, Liang (2017). Understanding black-box predictions via influence
    functions. arXiv:1703.04730

    Examples
    --------
    >>> from sk_datadrop import Hessian
    >>> Hessian(damping=0.5).get_params()["damping"]
    0.5
    """

    def _batch_product(self, net, X, y):
        """Return v -> sum_i (Hessian of the loss of row i) v over one batch.

        The gradient does not depend on v: its graph is made once and kept, and a
        product is one backward pass through it.
        """

        def total_loss(theta):
            return net.row_losses(theta, X, y).sum()

        def gradient(theta):
            return torch.autograd.grad(total_loss(theta), theta, create_graph=True)[0]

        # Symmetric, so its vector-Jacobian product serves.
        return pullback(gradient, net.theta)[1]
