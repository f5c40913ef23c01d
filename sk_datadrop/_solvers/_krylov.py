"""Krylov spaces of a symmetric matrix, and its extreme eigenvalues."""

from collections import deque

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from sk_datadrop._curvature import CurvatureOperator
from sk_datadrop._solvers._base import rounding
from sk_datadrop._solvers._spectrum import Spectrum

# More never pays for an eigenvalue that only sets the scale of the damping.
LONGEST_ESTIMATE = 50


class KrylovSpace:
    """Orthonormal basis Q of span(b, A b, A^2 b, ...), one product at a time.

    ``T = Q^T A Q`` is tridiagonal. Its eigenpairs (ritz values t, vectors s) stand
    for those of A, ``|A Q s - t Q s|`` being the last entry of s times the length of
    the part of A q that left the space.

    Parameters
    ----------
    operator : CurvatureOperator
    start : Tensor of shape (n_parameters,)
        b, of norm 1.
    n_kept : int or None, default=None
        How many of the last basis vectors are kept, to orthogonalise against. In
        exact arithmetic 2 would do; rounding then lets copies of converged Ritz
        values appear but does not move the extreme ones (Paige 1976,
        doi:10.1093/imamat/18.3.341). None keeps all, as `lift` needs.
    """

    def __init__(
        self, operator: CurvatureOperator, start: Tensor, n_kept: int | None = None
    ) -> None:
        self._operator = operator
        self._basis: deque[Tensor] = deque(maxlen=n_kept)
        self._diagonal: list[float] = []
        self._off_diagonal: list[float] = []
        self._remainder = start
        self._rounding = rounding(start)
        self.ritz_values: NDArray[np.float64] = np.empty(0)
        self.vectors: NDArray[np.float64] = np.empty((0, 0))

    def expand(self) -> None:
        """Add one dimension, at the price of one product."""
        length = self._off_diagonal[-1] if self._off_diagonal else 1.0
        q = self._remainder / length
        self._basis.append(q)
        w = self._operator.product(q)
        self._diagonal.append(float(w @ q))
        # Twice: once is not enough in float32. One vector after the other, since
        # stacking them would copy the basis.
        for _ in range(2):
            for kept in self._basis:
                w = w - (kept @ w) * kept
        self._off_diagonal.append(float(torch.linalg.norm(w)))
        self._remainder = w
        self._update_ritz_pairs()

    def _update_ritz_pairs(self) -> None:
        if np.isfinite([self._diagonal[-1], self._off_diagonal[-1]]).all():
            self.ritz_values, self.vectors = eigh_tridiagonal(
                self._diagonal, self._off_diagonal[:-1]
            )
        else:
            self.ritz_values = np.full(self.size, np.nan)
            self.vectors = np.full((self.size, self.size), np.nan)

    @property
    def size(self) -> int:
        """Dimension of the space, and the number of products it took."""
        return len(self._diagonal)

    @property
    def lowest(self) -> float:
        """Lowest Ritz value."""
        return float(self.ritz_values[0])

    @property
    def top(self) -> float:
        """Largest absolute Ritz value."""
        return float(np.abs(self.ritz_values).max())

    @property
    def errors(self) -> NDArray[np.float64]:
        """Bounds on the distance of each Ritz value from an eigenvalue of A."""
        bounds: NDArray[np.float64] = np.abs(self.vectors[-1])
        return self._off_diagonal[-1] * bounds

    def spectrum(self, shift: float | None = None) -> Spectrum:
        """Return the Ritz values, with the shift for `top` unless one is given."""
        if shift is None:
            shift = self._operator.shift(self.top)
        return Spectrum(self.lowest, self.top, shift, self.ritz_values)

    def top_settled(self, tol: float) -> bool:
        """Tell whether `top` is within ``tol * top`` of an eigenvalue of A.

        In a spectrum without gaps that need not be the largest one yet, in one with
        gaps `top` is closer to it by far: the error falls with the square.
        """
        error = self.errors[np.abs(self.ritz_values).argmax()]
        return bool(error <= max(tol, self._rounding) * self.top) or self.exhausted

    @property
    def exhausted(self) -> bool:
        """Tell whether A maps the space into itself, or to numbers not finite."""
        return not self._off_diagonal[-1] > self._rounding * self.top

    def solve(self, shift: float) -> tuple[NDArray[np.float64], float]:
        """Return y and residual of the Galerkin solution Q y of (A + shift I) x = b.

        Both are NaN if Q^T A Q + shift I is not positive definite.
        """
        if not self.spectrum(shift).is_positive_definite:
            return np.full(self.size, np.nan), np.nan
        y = self.vectors @ (self.vectors[0] / (self.ritz_values + shift))
        # All of the residual is in the part of A q that left the space.
        return y, float(self._off_diagonal[-1] * abs(y[-1]))

    def coefficients(self, vectors: Tensor) -> NDArray[np.float64]:
        """Return Q^T V for V of shape (n_parameters, n_vectors)."""
        rows = torch.stack([q @ vectors for q in self._basis])
        coefficients: NDArray[np.float64] = rows.cpu().double().numpy()
        return coefficients

    def lift(self, coefficients: NDArray[np.float64]) -> Tensor:
        """Return Q C for C of shape (size, n_vectors)."""
        like = self._basis[0]
        C = torch.as_tensor(coefficients, dtype=like.dtype, device=like.device)
        lifted = like.new_zeros(len(like), C.shape[1])
        for q, row in zip(self._basis, C, strict=True):
            lifted.addr_(q, row)
        return lifted


def extreme_eigenvalues(
    operator: CurvatureOperator, start: Tensor, *, tol: float, max_iter: int
) -> KrylovSpace:
    """Return a Krylov space whose `top` is the largest absolute eigenvalue of A.

    Keeps two basis vectors at a time, and so cannot lift.
    """
    space = KrylovSpace(operator, start, n_kept=2)
    space.expand()
    while not space.top_settled(tol) and space.size < min(max_iter, LONGEST_ESTIMATE):
        space.expand()
    return space
