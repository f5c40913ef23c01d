"""Interface of the solvers, the report of a solve, and `solve` itself."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_scalar
from torch import Tensor

from sk_datadrop._curvature import CurvatureOperator, check_positive

# Strings rather than an enumeration: a saved model then holds no further type.
SolverStatus = Literal[
    "solved", "zero_gradient", "not_converged", "not_positive_definite", "not_finite"
]

ZERO_GRADIENT = (
    "the gradient of the held-out objective is zero, so every influence is zero; "
    "score an earlier epoch or hold out more samples."
)
NOT_FINITE = (
    "the gradient of the held-out objective is not finite and the samples are not "
    "scored: the training diverged. Lower the learning rate, or scale X and y."
)


@dataclass(frozen=True, repr=False)
class SolverResult:
    """Solution of ``(A + shift D) X = B`` and how it was reached.

    D is the scale of the operator, the identity by default. The fields are attributes
    of the same names.

    Parameters
    ----------
    solution : Tensor of shape (n_parameters, n_rhs) or None
        One column per right-hand side. None in the reports of a fitted estimator.
    residual : float
        Largest ``|(A + shift D) x - b| / |b|`` over the right-hand sides b, in the
        norm ``|D^(-1/2) b|``. Lanczos and CG update it in every step, which needs no
        product; its error is machine epsilon times the condition number. NaN if the
        system was refused.
    n_iter : int
        Number of products with A, including those for its top eigenvalue.
    status : str
        "solved": to the tolerance of the solver or to rounding. "zero_gradient": all
        right-hand sides are zero, and so is the solution. "not_converged": the residual
        is too large. The system is refused, with a solution of NaN, if the damped
        matrix is "not_positive_definite" or a right-hand side "not_finite".
    top_eigenvalue : float
        Largest absolute eigenvalue of ``D^(-1/2) A D^(-1/2)`` that the solver saw.
    shift : float
        Absolute damping: the multiple of D that was added to A.
    message : str
        Empty, or one sentence on what went wrong and what to try.
    ritz_values : ndarray of shape (n_ritz_values,), dtype float64
        Eigenvalues of the same matrix that the solver computed, ascending. `Dense`
        gives all of them, `Lanczos` those in the Krylov space of the first right-hand
        side, `Arnoldi` those in the space of its random start, other solvers none.

    See Also
    --------
    influence_scores : Returns one per checkpoint.
    Lanczos : Default solver.

    Examples
    --------
    >>> from sk_datadrop import SolverResult
    >>> SolverResult(
    ...     None, 0.02, n_iter=4, status="solved", top_eigenvalue=2.0, shift=0.2
    ... )
    SolverResult(status='solved', n_iter=4, residual=0.02, top_eigenvalue=2, shift=0.2)
    """

    solution: Any
    residual: float
    n_iter: int
    status: SolverStatus
    top_eigenvalue: float
    shift: float
    message: str = ""
    ritz_values: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))

    @property
    def converged(self) -> bool:
        """Tell whether the solution is as precise as the solver was asked for.

        True if the status is "solved" or "zero_gradient".

        See Also
        --------
        SolverResult : Lists all values of `status`.

        Examples
        --------
        >>> from sk_datadrop import SolverResult
        >>> SolverResult(None, 0.2, 20, "not_converged", 1.5, 0.15).converged
        False
        """
        return self.status in ("solved", "zero_gradient")

    def __repr__(self) -> str:
        return (
            f"SolverResult(status={self.status!r}, n_iter={self.n_iter}, "
            f"residual={self.residual:.2g}, top_eigenvalue={self.top_eigenvalue:.3g}, "
            f"shift={self.shift:.3g})"
        )


class Solver(BaseEstimator, ABC):
    """Solves the damped system of a `CurvatureOperator`.

    All solvers solve the same system, that with the damping relative to the largest
    absolute eigenvalue of A, each as precisely as its tolerance asks. All refuse to
    solve once they have seen that the damped matrix is not positive definite.
    """

    @abstractmethod
    def _check_parameters(self) -> None:
        """Raise an error if a parameter is out of range."""

    @abstractmethod
    def _solve(self, operator: CurvatureOperator, rhs: Tensor) -> SolverResult:
        """Solve for right-hand sides of norm 1, at least one, with a scale of one."""


def check_solver(solver: Solver) -> None:
    """Raise a ValueError or a TypeError if a parameter of the solver is wrong."""
    solver._check_parameters()


def solve(solver: Solver, operator: CurvatureOperator, rhs: Tensor) -> SolverResult:
    """Solve ``(A + shift D) X = rhs`` for rhs of shape (n_parameters, n_rhs).

    The solver works in variables of scale one and on columns of norm 1. It never
    sees columns of zeros: their solution is zero.
    """
    check_solver(solver)
    root = torch.as_tensor(operator.scale, dtype=rhs.dtype, device=rhs.device).sqrt()
    root = root[..., None]
    rhs = rhs / root
    norms = torch.linalg.norm(rhs, dim=0)
    if not torch.isfinite(norms).all():
        nowhere = torch.full_like(rhs, torch.nan)
        return SolverResult(nowhere, torch.nan, 0, "not_finite", 0.0, 0.0, NOT_FINITE)
    nonzero = norms > 0
    if not nonzero.any():
        zeros = torch.zeros_like(rhs)
        return SolverResult(zeros, 0.0, 0, "zero_gradient", 0.0, 0.0, ZERO_GRADIENT)
    norms = norms[nonzero]
    result = solver._solve(operator.standardised(), rhs[:, nonzero] / norms)
    is_refused = result.status == "not_positive_definite"
    solution = torch.full_like(rhs, torch.nan if is_refused else 0)
    solution[:, nonzero] = result.solution * norms / root
    message = result.message or _zero_gradients(nonzero)
    return replace(result, solution=solution, message=message)


def _zero_gradients(nonzero: Tensor) -> str:
    """Tell how many of the right-hand sides are zero, if any; not all of them are."""
    if nonzero.all():
        return ""
    return (
        f"the gradient of the held-out objective is zero for {int((~nonzero).sum())} "
        f"of {len(nonzero)} groups of held-out samples, so every influence on these "
        "is zero; score an earlier epoch or hold out more samples."
    )


def check_count(name: str, value: object) -> None:
    """Raise an error unless `value` is a positive integer."""
    check_scalar(value, name, Integral, min_val=1)


def check_limits(max_iter: int, tol: float) -> None:
    """Raise an error unless both are positive, and `max_iter` is an integer."""
    check_count("max_iter", max_iter)
    check_positive("tol", tol)


def rounding(tensor: Tensor) -> float:
    """Return the relative size below which numbers of this dtype are rounding."""
    return 100 * torch.finfo(tensor.dtype).eps
