"""What a solver is, and what it reports."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

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
        ``|(A + shift I) x - b| / |b|`` for the mean right-hand side b.
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


def check_positive_definite(lowest: float, top: float, shift: float) -> None:
    """Raise a ValueError unless the damped matrix has positive eigenvalues only."""
    if lowest + shift < 0:
        raise ValueError(
            f"the damped curvature is not positive definite (smallest eigenvalue "
            f"{lowest:.3g}, damping {shift:.3g}): the criterion is not convex in the "
            "outputs. Use a convex criterion such as CrossEntropyLoss, MSELoss or "
            "HuberLoss, or raise `damping`."
        )
    if top <= 0:
        raise ValueError(
            f"the curvature of the training loss is zero (largest eigenvalue "
            f"{top:.3g}): the criterion is linear in the outputs or its gradient "
            "vanishes on the sampled rows. Score an earlier epoch, or use a "
            "criterion that is strictly convex in the outputs."
        )
