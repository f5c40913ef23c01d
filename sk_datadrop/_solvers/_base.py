"""What a solver is, and what it reports."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from sklearn.base import BaseEstimator
from torch import Tensor

from sk_datadrop._curvature import CurvatureOperator


@dataclass(frozen=True, repr=False)
class SolverResult:
    """Solution of ``(A + shift I) X = B`` and how it was reached.

    Attributes
    ----------
    solution : Tensor of shape (n_parameters, n_rhs)
        One column per right-hand side.
    residual : float
        Largest ``|(A + shift I) x - b| / |b|`` over the right-hand sides b.
    n_iter : int
        Number of products with A.
    converged : bool
        Whether the residual met the solver's tolerance.
    top_eigenvalue : float
        Largest eigenvalue of A, as far as the solver saw it.
    shift : float
        Absolute damping that was added.
    message : str
        Empty, or one sentence that says what went wrong and what to try.
    """

    solution: Tensor
    residual: float
    n_iter: int
    converged: bool
    top_eigenvalue: float
    shift: float
    message: str = ""

    def __repr__(self) -> str:
        return (
            f"SolverResult(converged={self.converged}, n_iter={self.n_iter}, "
            f"residual={self.residual:.2g}, top_eigenvalue={self.top_eigenvalue:.3g}, "
            f"shift={self.shift:.3g})"
        )


class Solver(BaseEstimator, ABC):
    """Solves the damped system of a `CurvatureOperator`."""

    @abstractmethod
    def check_parameters(self) -> None:
        """Raise a ValueError if a parameter is out of range."""

    @abstractmethod
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
        """


def unsolvable(
    rhs: Tensor, n_iter: int, lowest: float, top: float, shift: float
) -> SolverResult | None:
    """Report a damped matrix that is not positive definite, else return None.

    The solution is NaN, so that the views that hang on it take no part in the
    decision; an error would throw away the rounds that can be solved.
    """
    if top > 0 and lowest + shift > 0:
        return None
    message = (
        f"the damped curvature is not positive definite (eigenvalues {lowest:.3g} to "
        f"{top:.3g}, damping {shift:.3g}) and this round is not scored: the net is "
        "saturated and only rounding is left, or the criterion is linear or not convex "
        "in the outputs. Train for fewer epochs, scale X and y, or use a convex "
        "criterion such as CrossEntropyLoss, MSELoss or HuberLoss."
    )
    solution = torch.full_like(rhs, torch.nan)
    return SolverResult(solution, float("nan"), n_iter, False, top, shift, message)
