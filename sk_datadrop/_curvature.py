"""Curvature of the training loss: products with a damped matrix, never the matrix.

Damping is relative to the largest absolute eigenvalue and to the scale of each
parameter, and belongs to the operator, so that every solver solves the same system.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch import Tensor

from sk_datadrop._checks import check_count, check_positive
from sk_datadrop._derivatives import measured_graphs, pullback
from sk_datadrop._functional import FunctionalNet

_MAX_BATCH_ROWS = 128
"""A batch has at most so many rows; larger ones are no faster."""

_N_MEASURED_ROWS = 8
"""The memory per row is measured on so many."""

_MIN_SCALE = 1e-3
"""No tensor has a smaller scale, relative to the mean: it would be that of rounding."""


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
        max_memory: float = 1e9,
    ) -> None:
        self.damping = damping
        self.scaling = scaling
        self.n_samples = n_samples
        self.max_memory = max_memory

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

        The rows are drawn here, once: all products are with the same matrix.

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
            Products with the matrix, and its damping, for a solver.

        Raises
        ------
        ValueError
            If a parameter is out of range.

        See Also
        --------
        check_parameters : Called first.
        sk_datadrop.Lanczos.solve : Takes the operator.

        Examples
        --------
        >>> import numpy as np, torch
        >>> from skorch import NeuralNetRegressor
        >>> from sk_datadrop import GaussNewton
        >>> from sk_datadrop._functional import FunctionalNet
        >>> X = np.float32([[1, 0], [0, 1]])
        >>> net = NeuralNetRegressor(
        ...     torch.nn.Linear, module__in_features=2, module__out_features=1,
        ...     module__bias=False, verbose=0,
        ... ).initialize()
        >>> operator = GaussNewton().operator(
        ...     FunctionalNet(net), X, X[:, :1], random_state=np.random.default_rng(0)
        ... )
        >>> operator.product(torch.ones(2))
        tensor([1., 1.])
        """
        self.check_parameters()
        rows = self._sample_rows(len(X), random_state)
        X, y = X[rows], y[rows]
        size = self._rows_at_a_time(net, X, y)
        kept = self._products_that_fit(net, X, y, size)
        n_kept = len(kept) * size

        def product(v: Tensor) -> Tensor:
            total = torch.zeros_like(v)
            made_anew = self._batch_products(net, X[n_kept:], y[n_kept:], size)
            for batch_product in chain(kept, made_anew):
                total += batch_product(v)
            on_product()
            return total / len(rows)

        scale = _tensor_scale(net, product) if self.scaling else 1.0
        return CurvatureOperator(product, net.theta.numel(), self.damping, scale)

    def _batch_products(self, net, X, y, size) -> Iterator[Callable[[Tensor], Tensor]]:
        if len(X):
            for Xb, yb in net.batches(X, y, size):
                yield self._batch_product(net, Xb, yb)

    def _rows_at_a_time(self, net: FunctionalNet, X, y) -> int:
        """Rows whose graphs stay within `max_memory`."""
        few = min(_N_MEASURED_ROWS, len(X))
        with measured_graphs(net.theta) as n_bytes:
            _ = list(self._batch_products(net, X[:few], y[:few], few))
            per_row = max(n_bytes() / few, 1)
        return int(np.clip(self.max_memory / per_row, 1, _MAX_BATCH_ROWS))

    def _products_that_fit(self, net: FunctionalNet, X, y, size) -> list:
        """Products of the first batches, whose graphs are kept for all products."""
        kept = []
        with measured_graphs(net.theta) as n_bytes:
            for batch_product in self._batch_products(net, X, y, size):
                if n_bytes() > self.max_memory:
                    break
                kept.append(batch_product)
        return kept

    def _sample_rows(self, n_available: int, rng) -> np.ndarray:
        if self.n_samples is None or self.n_samples >= n_available:
            return np.arange(n_available)
        return np.sort(rng.choice(n_available, self.n_samples, replace=False))

    def check_parameters(self) -> None:
        """Raise a ValueError if a parameter is out of range.

        Called before any training, and before the matrix is built.

        Raises
        ------
        ValueError
            If `damping`, `n_samples` or `max_memory` is not positive, or `scaling`
            is unknown.

        See Also
        --------
        operator : Builds the matrix.

        Examples
        --------
        >>> from sk_datadrop import GaussNewton
        >>> GaussNewton(scaling="row").check_parameters()
        Traceback (most recent call last):
            ...
        ValueError: scaling must be 'tensor' or None; got 'row'.
        """
        relative = ", relative to the largest eigenvalue"
        check_positive("damping", self.damping, relative)
        if self.scaling not in ("tensor", None):
            raise ValueError(f"scaling must be 'tensor' or None; got {self.scaling!r}.")
        if self.n_samples is not None:
            check_count("n_samples", self.n_samples)
        check_positive("max_memory", self.max_memory, " of bytes")


def _tensor_scale(net: FunctionalNet, product) -> Tensor:
    """Root mean square of A theta in each tensor of parameters, (n_parameters,).

    Relative to the mean over all parameters, so one where there is one tensor.
    Where the outputs are piecewise linear in the parameters of each layer, A theta
    follows the size of the derivatives of the outputs; unlike an estimate of the
    diagonal it needs no random numbers, and so not the order of the rows.
    """
    size = net.mean_per_tensor(product(net.theta).square()).sqrt()
    # A tensor that moves no output has no curvature to compare with.
    smallest = _MIN_SCALE * size.mean() + torch.finfo(size.dtype).tiny
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
    max_memory : float, default=1e9
        Bytes for the graphs that products with the matrix go back through. They are
        made once, as far as they fit, and otherwise anew in every product, in batches
        that fit. Changes the result by rounding only.

    See Also
    --------
    Hessian : With the part that can be negative.
    Lanczos : Solves with it.

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

        def loss_gradient(z):
            loss = net.losses(z, y).sum()
            return torch.autograd.grad(loss, z, create_graph=True)[0]

        z, jacobian_transpose = pullback(outputs, net.theta)
        # Symmetric, so its vector-Jacobian product serves.
        hessian = pullback(loss_gradient, z)[1]

        def product(v: Tensor) -> Tensor:
            return jacobian_transpose(hessian(net.jvp(X, v)[1]))

        return product


class Hessian(Curvature):
    """Hessian of the mean training loss by the parameters.

    The matrix of the influence functions of Koh and Liang, who assume a minimum.
    Trained nets are rarely at one: the Hessian then has negative eigenvalues,
    along which the formula would turn influences around. Damping mends that as
    long as it exceeds them. If the damped matrix is not positive definite, the
    solvers refuse, the split is not scored, and a warning names the damping that
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
    max_memory : float, default=1e9
        Bytes for the graphs that products with the matrix go back through.

    See Also
    --------
    GaussNewton : Without the part that can be negative.

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
