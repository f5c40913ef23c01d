"""Conjugate gradients: four vectors of memory, whatever the number of products."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from sk_datadrop._checks import check_count, check_positive
from sk_datadrop._curvature import CurvatureOperator
from sk_datadrop._solvers._base import (
    Solver,
    SolverResult,
    combined,
    refused,
    rounding,
)
from sk_datadrop._solvers._krylov import extreme_eigenvalues

Preconditioner = Callable[[Tensor, float], Tensor]


class CG(Solver):
    """Conjugate gradients, for one right-hand side after the other.

    The iterates are those of `Lanczos` without its basis of one vector per product.
    The price: the top eigenvalue, which sets the damping, is not known until some
    products with the first right-hand side have been spent on it.

    A direction p with ``p^T (A + shift I) p <= 0`` proves that the damped matrix is
    not positive definite; the solution is then NaN, and the message says so.

    Parameters
    ----------
    max_iter : int, default=20
        Largest number of curvature products per right-hand side, and for the top
        eigenvalue.
    tol : float, default=0.03
        Stop once the residual, relative to the norm of the right-hand side, is
        below. The top eigenvalue is found to the same relative accuracy.
    preconditioner : callable or None, default=None
        ``preconditioner(r, shift)`` returns an approximation to
        ``(A + shift I)^-1 r`` for r of shape (n_parameters,), linear in r,
        symmetric and positive definite.

    See Also
    --------
    Lanczos : The same iterates, and the top eigenvalue on the way.

    References
    ----------
    Hestenes, Stiefel (1952). Methods of conjugate gradients for solving linear
    systems. doi:10.6028/jres.049.044

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

    def check_parameters(self) -> None:
        """Raise a ValueError if a parameter is out of range.

        Called before any training, and before anything is solved.

        Raises
        ------
        ValueError
            If `max_iter` or `tol` is not positive, or `preconditioner` no callable.

        See Also
        --------
        solve : Solves the system.

        Examples
        --------
        >>> from sk_datadrop import CG
        >>> CG(tol=0).check_parameters()
        Traceback (most recent call last):
            ...
        ValueError: tol must be a positive number; got 0.
        """
        check_count("max_iter", self.max_iter)
        check_positive("tol", self.tol)
        if self.preconditioner is not None and not callable(self.preconditioner):
            raise ValueError(
                "preconditioner must be None or a callable (r, shift) -> tensor like "
                f"r; got {self.preconditioner!r}."
            )

    def _solve(self, operator: CurvatureOperator, rhs: Tensor) -> SolverResult:
        space = extreme_eigenvalues(
            operator, rhs[:, 0], tol=self.tol, max_iter=self.max_iter
        )
        top, shift = space.top, operator.shift(space.top)
        if not space.lowest + shift > 0:
            return refused(rhs, space.size, space.lowest, top, shift)
        columns = (
            conjugate_gradients(
                operator,
                b,
                top,
                max_iter=self.max_iter,
                tol=self.tol,
                preconditioner=self.preconditioner,
            )
            for b in rhs.T
        )
        result = combined(columns, rhs)
        return replace(result, n_iter=space.size + result.n_iter)


def conjugate_gradients(
    operator: CurvatureOperator,
    b: Tensor,
    top: float,
    *,
    max_iter: int,
    tol: float,
    preconditioner: Preconditioner | None = None,
) -> SolverResult:
    """Solve ``(A + shift I) x = b`` with b of norm 1 and the shift for `top`."""
    shift = operator.shift(top)
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
            return refused(b, n_iter, lowest, top, shift)
        x = x.add(p, alpha=rho / curvature)
        r = r.sub(Ap, alpha=rho / curvature)
        residual = float(torch.linalg.norm(r))
        if residual <= tol:
            break
    converged = residual <= tol
    message = (
        f"CG stopped after max_iter={max_iter} products at a relative residual of "
        f"{residual:.2g} (tol={tol:g}); raise max_iter, or raise the damping of the "
        "curvature."
    )
    return SolverResult(
        x, residual, n_iter, converged, top, shift, "" if converged else message
    )
