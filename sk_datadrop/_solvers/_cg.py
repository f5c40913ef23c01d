"""Conjugate gradients: four vectors of memory, whatever the number of products."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from sk_datadrop._curvature import CurvatureOperator
from sk_datadrop._solvers._base import Solver, SolverResult, check_limits, rounding
from sk_datadrop._solvers._columns import solve_columns
from sk_datadrop._solvers._spectrum import Spectrum

Preconditioner = Callable[[Tensor, float], Tensor]


class CG(Solver):
    """Conjugate gradients, for one right-hand side after the other.

    The iterates are those of `Lanczos`, without a stored basis of one vector per
    product. In return it needs some extra products with the first right-hand side to
    find the top eigenvalue, which sets the damping.

    A direction p with ``p^T (A + shift I) p <= 0`` proves that the damped matrix is
    not positive definite; the solution is then NaN, and the message says so.

    Parameters
    ----------
    max_iter : int, default=20
        Largest number of curvature products per right-hand side, and for the top
        eigenvalue.
    tol : float, default=0.03
        Stop once the residual, relative to the norm of the right-hand side, is below
        it. The top eigenvalue is found to the same relative accuracy.
    preconditioner : callable or None, default=None
        ``preconditioner(r, shift)`` returns an approximation to
        ``(A + shift I)^-1 r`` for r of shape (n_parameters,), linear in r,
        symmetric and positive definite.

    See Also
    --------
    Lanczos : Has the same iterates, and finds the top eigenvalue on the way.

    References
    ----------
    Hestenes & Stiefel (1952), doi:10.6028/jres.049.044.

    Examples
    --------
    >>> from sk_datadrop import CG
    >>> CG(max_iter=50, tol=1e-6)
    CG(max_iter=50, tol=1e-06)
    """

    def __init__(
        self,
        max_iter: int = 20,
        tol: float = 0.03,
        preconditioner: Preconditioner | None = None,
    ) -> None:
        self.max_iter = max_iter
        self.tol = tol
        self.preconditioner = preconditioner

    def _check_parameters(self) -> None:
        check_limits(self.max_iter, self.tol)
        if self.preconditioner is not None and not callable(self.preconditioner):
            raise TypeError(
                "preconditioner must be None or a callable (r, shift) -> tensor like "
                f"r; got {self.preconditioner!r}."
            )

    def _solve(self, operator: CurvatureOperator, rhs: Tensor) -> SolverResult:
        solve_column = partial(
            conjugate_gradients,
            operator,
            max_iter=self.max_iter,
            tol=self.tol,
            preconditioner=self.preconditioner,
        )
        return solve_columns(operator, rhs, solve_column, self.max_iter, self.tol)


def conjugate_gradients(
    operator: CurvatureOperator,
    spectrum: Spectrum,
    b: Tensor,
    *,
    max_iter: int,
    tol: float,
    preconditioner: Preconditioner | None = None,
) -> SolverResult:
    """Solve ``(A + shift I) x = b`` with b of norm 1 and the shift of the spectrum."""
    shift = spectrum.shift
    x, r, p, rho = torch.zeros_like(b), b, torch.zeros_like(b), 1.0
    # Below rounding the products of tiny vectors underflow and look like negative
    # curvature.
    tol = max(tol, rounding(b))
    for n_iter in range(1, max_iter + 1):
        z = r if preconditioner is None else preconditioner(r, shift)
        rho_before, rho = rho, float(r @ z)
        if not rho > 0:
            raise ValueError(
                f"preconditioner is not positive definite: r @ preconditioner(r) is "
                f"{rho:.3g}. Make it symmetric and positive definite, or pass None."
            )
        p = z.add(p, alpha=rho / rho_before)
        Ap = operator.product(p) + shift * p
        curvature = float(p @ Ap)
        if not curvature > 0:
            lowest = curvature / float(p @ p) - shift
            return replace(spectrum, lowest=lowest).not_positive_definite(b, n_iter)
        x = x.add(p, alpha=rho / curvature)
        r = r.sub(Ap, alpha=rho / curvature)
        residual = float(torch.linalg.norm(r))
        if residual <= tol:
            return spectrum.report(x, residual, n_iter)
    failure = (
        f"CG stopped after max_iter={max_iter} products at a relative residual of "
        f"{residual:.2g} (tol={tol:g}); raise max_iter, or raise the damping of the "
        "curvature."
    )
    return spectrum.report(x, residual, n_iter, failure)
