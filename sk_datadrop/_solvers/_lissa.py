"""LiSSA: the inverse as a Neumann series, summed one product at a time."""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from sk_datadrop._curvature import CurvatureOperator
from sk_datadrop._solvers._base import Solver, SolverResult, check_limits, rounding
from sk_datadrop._solvers._cg import conjugate_gradients
from sk_datadrop._solvers._columns import solve_columns
from sk_datadrop._solvers._spectrum import Spectrum


class LiSSA(Solver):
    """Sum the Neumann series of the inverse (Agarwal, Bullins and Hazan).

    With ``M = A + shift I`` and a scale c above its largest eigenvalue,
    ``M^-1 b = sum_j (I - M / c)^j b / c``, one product per term. Koh and Liang draw
    new samples for every term and choose c by hand. Here all terms use the samples of
    the curvature, so the recursion is deterministic, and ``c = top_eigenvalue +
    shift`` makes its residual fall with every term. If it rises, the top eigenvalue
    found is too low or the matrix is not positive definite: then `CG` takes over,
    and the message says so.

    It needs about ``log(1 / tol) * (1 + 1 / damping)`` products. `Lanczos` and `CG`
    need about the square root of that, so LiSSA is mainly for comparison.

    Parameters
    ----------
    max_iter : int, default=100
        Largest number of curvature products per right-hand side, as in `CG`.
    tol : float, default=0.03
        Largest relative residual, as in `CG`.

    See Also
    --------
    CG : Finds the same solution with far fewer products.

    References
    ----------
    Agarwal, Bullins, Hazan (2017), arXiv:1602.03943; Koh & Liang (2017),
    arXiv:1703.04730.

    Examples
    --------
    >>> from sk_datadrop import LiSSA
    >>> LiSSA(max_iter=500, tol=1e-3)
    LiSSA(max_iter=500, tol=0.001)
    """

    def __init__(self, max_iter: int = 100, tol: float = 0.03) -> None:
        self.max_iter = max_iter
        self.tol = tol

    def _check_parameters(self) -> None:
        check_limits(self.max_iter, self.tol)

    def _solve(self, operator: CurvatureOperator, rhs: Tensor) -> SolverResult:
        solve_column = partial(self._solve_column, operator)
        return solve_columns(operator, rhs, solve_column, self.max_iter, self.tol)

    def _solve_column(
        self, operator: CurvatureOperator, spectrum: Spectrum, b: Tensor
    ) -> SolverResult:
        top, shift = spectrum.top, spectrum.shift
        tol = max(self.tol, rounding(b))
        x, r, lowest_residual = torch.zeros_like(b), b, 1.0
        for n_iter in range(1, self.max_iter + 1):
            # The sum of the first terms; r = b - M x gives the next one.
            x = x + r / (top + shift)
            r = b - operator.product(x) - shift * x
            residual = float(torch.linalg.norm(r))
            # The logarithm of the residual is convex in n_iter: once it rises, it
            # never falls again.
            if not residual <= 2 * lowest_residual + rounding(b):
                return self._fall_back(operator, spectrum, b, n_iter)
            lowest_residual = min(residual, lowest_residual)
            if residual <= tol:
                return spectrum.report(x, residual, n_iter)
        return spectrum.report(x, residual, n_iter, self._failure(residual))

    def _fall_back(
        self, operator: CurvatureOperator, spectrum: Spectrum, b: Tensor, n_iter: int
    ) -> SolverResult:
        result = conjugate_gradients(
            operator, spectrum, b, max_iter=self.max_iter, tol=self.tol
        )
        message = (
            f"LiSSA diverged after {n_iter} products, since the top eigenvalue seen "
            f"({spectrum.top:.3g}) is too low or the curvature is not positive "
            "definite, and conjugate gradients took over; use CG or Lanczos, or lower "
            f"tol. {result.message}"
        )
        n_iter += result.n_iter
        return replace(result, n_iter=n_iter, message=message.strip())

    def _failure(self, residual: float) -> str:
        return (
            f"LiSSA stopped after max_iter={self.max_iter} products at a relative "
            f"residual of {residual:.2g} (tol={self.tol:g}); raise max_iter, raise the "
            "damping of the curvature, or use CG or Lanczos."
        )
