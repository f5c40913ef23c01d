"""Lanczos iteration: one Krylov space gives the solution and the top eigenvalue."""

from numbers import Integral, Real

import numpy as np
import torch
from torch import Tensor

from sk_datadrop._curvature import CurvatureOperator
from sk_datadrop._solvers._base import Solver, SolverResult, unsolvable


class Lanczos(Solver):
    """Project the system on the Krylov space of each right-hand side.

    With Q the orthonormal Krylov basis of b and T = Q^T A Q tridiagonal, the
    solution is ``|b| Q (T + shift I)^-1 e_1``, that of conjugate gradients. The
    shift follows the largest Ritz value of the first right-hand side and serves
    all, so no separate power iteration is needed.

    Parameters
    ----------
    max_iter : int, default=20
        Largest number of curvature products per right-hand side.
    tol : float, default=0.03
        Stop once the residual, relative to the norm of the right-hand side, is
        below. With a relative damping of 0.1 about five products reach 0.03.

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

    def __init__(self, max_iter: int = 20, tol: float = 0.03) -> None:
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
        results: list[SolverResult] = []
        for b in rhs.T:
            results.append(self._solve_column(operator, b, _first_solved(results)))
        return SolverResult(
            solution=torch.stack([r.solution for r in results], dim=1),
            residual=max(r.residual for r in results),
            n_iter=sum(r.n_iter for r in results),
            converged=all(r.converged for r in results),
            top_eigenvalue=max(r.top_eigenvalue for r in results),
            shift=max(r.shift for r in results),
            message=next((r.message for r in results if r.message), ""),
        )

    def _solve_column(self, operator, b: Tensor, solved) -> SolverResult:
        norm = float(torch.linalg.norm(b))
        if norm == 0:
            return _nothing_to_solve(b)
        rounding = 100 * torch.finfo(b.dtype).eps
        basis = [b / norm]
        diagonal: list[float] = []
        off_diagonal: list[float] = []
        while True:
            w = operator.product(basis[-1])
            diagonal.append(float(w @ basis[-1]))
            w = _orthogonalised(w, basis)
            off_diagonal.append(float(torch.linalg.norm(w)))
            ritz, vectors = _eigh_tridiagonal(diagonal, off_diagonal[:-1])
            shift = operator.shift(ritz[-1]) if solved is None else solved.shift
            failure = unsolvable(b, len(basis), ritz[0], ritz[-1], shift)
            if failure:
                return failure
            # x = norm * Q y with y = (T + s I)^-1 e_1; the residual is the last
            # coefficient times the part of A q that left the space.
            y = vectors @ (vectors[0] / (ritz + shift))
            residual = float(off_diagonal[-1] * abs(y[-1]))
            exhausted = off_diagonal[-1] <= rounding * ritz[-1]
            if residual <= self.tol or exhausted or len(basis) == self.max_iter:
                break
            basis.append(w / off_diagonal[-1])
        converged = bool(residual <= self.tol or exhausted)
        coefficients = torch.as_tensor(norm * y, dtype=b.dtype, device=b.device)
        return SolverResult(
            solution=torch.stack(basis, dim=1) @ coefficients,
            residual=residual,
            n_iter=len(basis),
            converged=converged,
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


def _first_solved(results: list[SolverResult]) -> SolverResult | None:
    """Return the result whose shift the next columns take over."""
    return next((r for r in results if r.shift > 0), None)


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
