"""Lanczos iteration: one Krylov space gives the solution and the top eigenvalue."""

from numbers import Integral, Real

import numpy as np
import torch
from torch import Tensor

from sk_datadrop._curvature import CurvatureOperator
from sk_datadrop._solvers._base import Solver, SolverResult, unsolvable


class Lanczos(Solver):
    """Project the system on the Krylov space of the mean right-hand side.

    With Q the orthonormal Krylov basis, T = Q^T A Q tridiagonal and s the shift,
    a right-hand side b is solved with A replaced by Q T Q^T::

        x = Q (T + s I)^-1 Q^T b + (b - Q Q^T b) / s

    For the mean right-hand side, which lies in the space, the second term
    vanishes and this is the conjugate gradient solution. The others share the
    space at no further product, and outside it they see only the damping. The
    shift follows the largest Ritz value, so no separate power iteration is
    needed.

    Parameters
    ----------
    max_iter : int, default=20
        Largest number of curvature products.
    tol : float, default=0.01
        Stop once the residual of the mean right-hand side, relative to its
        norm, is below. With a relative damping of 0.1 about eight products
        reach 0.01.

    References
    ----------
    Lanczos (1950). An iteration method for the solution of the eigenvalue
    problem of linear differential and integral operators.
    doi:10.6028/jres.045.026

    Saad (2003). Iterative methods for sparse linear systems, section 6.7.
    doi:10.1137/1.9780898718003

    Examples
    --------
    >>> from sk_datadrop import Lanczos
    >>> Lanczos(max_iter=50, tol=1e-6)
    Lanczos(max_iter=50, tol=1e-06)
    """

    def __init__(self, max_iter: int = 20, tol: float = 1e-2) -> None:
        self.max_iter = max_iter
        self.tol = tol

    def solve(self, operator: CurvatureOperator, rhs: Tensor) -> SolverResult:
        """Solve ``(A + shift I) X = rhs``.

        Parameters
        ----------
        operator : CurvatureOperator
            The matrix A and its relative damping.
        rhs : Tensor of shape (n_parameters, n_rhs)
            Right-hand sides.

        Returns
        -------
        SolverResult

        Raises
        ------
        ValueError
            If a parameter is out of range.
        """
        self.check_parameters()
        b = rhs.mean(1)
        norm = float(torch.linalg.norm(b))
        if norm == 0:
            return _nothing_to_solve(rhs)
        rounding = 100 * torch.finfo(rhs.dtype).eps
        basis = [b / norm]
        diagonal: list[float] = []
        off_diagonal: list[float] = []
        while True:
            w = operator.product(basis[-1])
            diagonal.append(float(w @ basis[-1]))
            w = _orthogonalised(w, basis)
            off_diagonal.append(float(torch.linalg.norm(w)))
            ritz, vectors = _eigh_tridiagonal(diagonal, off_diagonal[:-1])
            shift = operator.shift(ritz[-1])
            failure = unsolvable(rhs, len(basis), ritz[0], ritz[-1], shift)
            if failure:
                return failure
            # x = norm * Q y with y = (T + s I)^-1 e_1; the residual is the last
            # coefficient times the part of A q that left the space.
            y = vectors @ (vectors[0] / (ritz + shift))
            residual = off_diagonal[-1] * abs(y[-1])
            exhausted = off_diagonal[-1] <= rounding * ritz[-1]
            if residual <= self.tol or exhausted or len(basis) == self.max_iter:
                break
            basis.append(w / off_diagonal[-1])
        converged = residual <= self.tol or exhausted
        return SolverResult(
            solution=_solve_in(basis, ritz, vectors, shift, rhs),
            residual=residual,
            n_iter=len(basis),
            converged=bool(converged),
            top_eigenvalue=float(ritz[-1]),
            shift=float(shift),
            message="" if converged else self._failure(residual),
        )

    def _failure(self, residual: float) -> str:
        return (
            f"Lanczos stopped after max_iter={self.max_iter} products at a relative "
            f"residual of {residual:.2g} (tol={self.tol:g}); raise max_iter, or raise "
            "the damping of the curvature."
        )

    def check_parameters(self) -> None:
        """Raise a ValueError if a parameter is out of range."""
        if not isinstance(self.max_iter, Integral) or self.max_iter < 1:
            raise ValueError(
                f"max_iter must be a positive integer; got {self.max_iter!r}."
            )
        if not isinstance(self.tol, Real) or not self.tol > 0:
            raise ValueError(f"tol must be a positive number; got {self.tol!r}.")


def _nothing_to_solve(rhs: Tensor) -> SolverResult:
    message = (
        "the gradient of the held-out objective is zero, so every influence is zero; "
        "score an earlier epoch or hold out more rows."
    )
    return SolverResult(torch.zeros_like(rhs), 0.0, 0, True, 0.0, 0.0, message)


def _orthogonalised(w: Tensor, basis: list[Tensor]) -> Tensor:
    """Subtract the projection on the basis, twice: once is not enough in float32."""
    Q = torch.stack(basis)
    for _ in range(2):
        w = w - Q.T @ (Q @ w)
    return w


def _eigh_tridiagonal(diagonal, off_diagonal):
    T = np.diag(diagonal) + np.diag(off_diagonal, 1) + np.diag(off_diagonal, -1)
    return np.linalg.eigh(T)


def _solve_in(basis, ritz, vectors, shift, rhs: Tensor) -> Tensor:
    Q = torch.stack(basis)
    projected = Q @ rhs
    V = torch.as_tensor(vectors, dtype=rhs.dtype, device=rhs.device)
    scale = torch.as_tensor(1 / (ritz + shift), dtype=rhs.dtype, device=rhs.device)
    inside = Q.T @ (V @ (scale[:, None] * (V.T @ projected)))
    return inside + (rhs - Q.T @ projected) / shift
