"""What a solver is, and what it reports."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from math import isnan
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch import Tensor

from sk_datadrop._curvature import CurvatureOperator


@dataclass(frozen=True, repr=False)
class SolverResult:
    """Solution of ``(A + shift D) X = B`` and how it was reached.

    D is the scale of the operator, the identity unless it says otherwise.

    Attributes
    ----------
    solution : Tensor of shape (n_parameters, n_rhs) or None
        One column per right-hand side. None in the reports of a fitted estimator.
    residual : float
        Largest ``|(A + shift D) x - b| / |b|`` over the right-hand sides b, in the
        norm ``|D^(-1/2) b|``. Lanczos and CG carry it along instead of spending a
        product on it: it is right down to rounding, machine epsilon times the
        condition number.
    n_iter : int
        Number of products with A, those for its top eigenvalue included.
    converged : bool
        Whether the residual met the solver's tolerance, or rounding.
    top_eigenvalue : float
        Largest absolute eigenvalue of ``D^(-1/2) A D^(-1/2)``, as far as the solver
        saw it.
    shift : float
        Absolute damping that was added, times D.
    message : str
        Empty, or one sentence that says what went wrong and what to try.
    ritz_values : ndarray of shape (n_ritz_values,), dtype float64
        Eigenvalues of the same matrix as far as the solver saw them, ascending: all
        of them from `Dense`, those in the Krylov space of the first right-hand side
        from `Lanczos`, in that of the random start from `Arnoldi`, else none.
    """

    solution: Any
    residual: float
    n_iter: int
    converged: bool
    top_eigenvalue: float
    shift: float
    message: str = ""
    ritz_values: np.ndarray = field(default_factory=lambda: np.empty(0))

    def __repr__(self) -> str:
        return (
            f"SolverResult(converged={self.converged}, n_iter={self.n_iter}, "
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
    def check_parameters(self) -> None:
        """Raise a ValueError if a parameter is out of range.

        Called before any training, and before anything is solved.

        Raises
        ------
        ValueError
            If a parameter is out of range.

        See Also
        --------
        solve : Solves the system.

        Examples
        --------
        >>> from sk_datadrop import Lanczos
        >>> Lanczos(max_iter=0).check_parameters()
        Traceback (most recent call last):
            ...
        ValueError: max_iter must be a positive integer; got 0.
        """

    @abstractmethod
    def _solve(self, operator: CurvatureOperator, rhs: Tensor) -> SolverResult:
        """Solve for right-hand sides of norm 1, at least one, with a scale of one."""

    def solve(self, operator: CurvatureOperator, rhs: Tensor) -> SolverResult:
        """Solve ``(A + shift D) X = rhs``.

        All solvers find the same solution, down to their tolerance. A matrix that is
        not positive definite is refused, with a solution of NaN and a message.

        Parameters
        ----------
        operator : CurvatureOperator
            The matrix A, its scale D and its relative damping.
        rhs : Tensor of shape (n_parameters, n_rhs), dtype float32 or float64
            Right-hand sides.

        Returns
        -------
        SolverResult
            The solution, how it was reached, and a message if it was not.

        Raises
        ------
        ValueError
            If a parameter is out of range.

        See Also
        --------
        check_parameters : Called first.

        Examples
        --------
        >>> import torch
        >>> from sk_datadrop import Dense
        >>> from sk_datadrop._curvature import CurvatureOperator
        >>> operator = CurvatureOperator(
        ...     lambda v: torch.tensor([2.0, 4.0]) * v, size=2, damping=0.5
        ... )
        >>> result = Dense().solve(operator, torch.tensor([[4.0], [6.0]]))
        >>> result.shift, result.solution.T
        (2.0, tensor([[1., 1.]]))
        """
        self.check_parameters()
        standard = operator.standardised()
        return solve_scaled(
            lambda units: [self._solve(standard, units)], rhs, operator.scale
        )[0]


def solve_scaled(
    solve: Callable[[Tensor], list[SolverResult]],
    rhs: Tensor,
    scale: Tensor | float,
    n_results: int = 1,
) -> list[SolverResult]:
    """Solve in variables of scale one, for columns of norm 1, then undo both.

    Columns of zeros are left out, their solution is zero.
    """
    root = torch.as_tensor(scale, dtype=rhs.dtype, device=rhs.device).sqrt()[..., None]
    rhs = rhs / root
    norms = torch.linalg.norm(rhs, dim=0)
    if not torch.isfinite(norms).all():
        return [_not_finite(rhs)] * n_results
    nonzero = norms > 0
    if not nonzero.any():
        return [_nothing_to_solve(rhs)] * n_results
    norms = norms[nonzero]
    results = []
    for result in solve(rhs[:, nonzero] / norms):
        solution = torch.full_like(rhs, torch.nan if isnan(result.residual) else 0)
        solution[:, nonzero] = result.solution * norms / root
        message = result.message or _zero_gradients(nonzero)
        results.append(replace(result, solution=solution, message=message))
    return results


ZERO_GRADIENT = (
    "the gradient of the held-out objective is zero, so every influence is zero; "
    "score an earlier epoch or hold out more rows."
)


def _zero_gradients(nonzero: Tensor) -> str:
    """Tell how many of the right-hand sides are zero, if any; not all of them are."""
    if nonzero.all():
        return ""
    return (
        f"the gradient of the held-out objective is zero for {int((~nonzero).sum())} "
        f"of {len(nonzero)} groups of held-out rows, by which every influence is zero; "
        "score an earlier epoch or hold out more rows."
    )


def _nothing_to_solve(rhs: Tensor) -> SolverResult:
    return SolverResult(torch.zeros_like(rhs), 0.0, 0, True, 0.0, 0.0, ZERO_GRADIENT)


def _not_finite(rhs: Tensor) -> SolverResult:
    message = (
        "the gradient of the held-out objective is not finite and the rows are not "
        "scored: the training diverged. Lower the learning rate, or scale X and y."
    )
    solution = torch.full_like(rhs, torch.nan)
    return SolverResult(solution, float("nan"), 0, False, 0.0, 0.0, message)


def refused(
    rhs: Tensor, n_iter: int, lowest: float, top: float, shift: float, ritz_values=()
) -> SolverResult:
    """Report a damped matrix that is not positive definite.

    The solution is NaN, so that the views that hang on it take no part in the
    decision; an error would throw away the splits that can be solved.
    """
    remedy = "Use"
    if lowest < 0:
        enough = -lowest / max(top, -lowest)
        remedy = f"Raise the relative damping above {enough:.2g}, or use"
    message = (
        "the damped curvature is not positive definite (lowest eigenvalue seen "
        f"{lowest:.3g}, largest absolute one {top:.3g}, damping {shift:.3g}) and the "
        "rows are not scored: a Hessian away from a minimum, or a criterion not "
        "convex in the outputs, has negative curvature; in a saturated net, or under "
        f"a criterion linear in the outputs, only rounding is left. {remedy} "
        "GaussNewton with a convex criterion such as CrossEntropyLoss, MSELoss or "
        "HuberLoss, scale X and y, or train for fewer epochs."
    )
    return SolverResult(
        solution=torch.full_like(rhs, torch.nan),
        residual=float("nan"),
        n_iter=n_iter,
        converged=False,
        top_eigenvalue=top,
        shift=shift,
        message=message,
        ritz_values=np.array(ritz_values),
    )


def combined(columns: Iterable[SolverResult], rhs: Tensor) -> SolverResult:
    """Join results for one right-hand side each.

    A refusal is about the matrix, so one is a refusal of all, and no more columns
    are asked for.
    """
    results = []
    for result in columns:
        results.append(result)
        if isnan(result.residual):
            break
    n_iter = sum(r.n_iter for r in results)
    if isnan(results[-1].residual):
        nowhere = torch.full_like(rhs, torch.nan)
        return replace(results[-1], solution=nowhere, n_iter=n_iter)
    return replace(
        results[0],
        solution=torch.stack([r.solution for r in results], dim=1),
        residual=max(r.residual for r in results),
        n_iter=n_iter,
        converged=all(r.converged for r in results),
        top_eigenvalue=max(r.top_eigenvalue for r in results),
        message=next((r.message for r in results if r.message), ""),
    )


def rounding(tensor: Tensor) -> float:
    """Relative size below which a number is rounding, in the dtype of a tensor."""
    return 100 * torch.finfo(tensor.dtype).eps
