"""Eigenvalues of the operator that a solver saw: the shift, and whether it is enough.

All that depends on the operator only, for any number of right-hand sides.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sk_datadrop._solvers._base import SolverResult


@dataclass(frozen=True)
class Spectrum:
    """Lowest and largest absolute eigenvalue of A seen, and the shift for the latter.

    `ritz_values` are those that a `SolverResult` reports.
    """

    lowest: float
    top: float
    shift: float
    ritz_values: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))

    @property
    def is_positive_definite(self) -> bool:
        """Tell whether the damped matrix is, as far as seen; NaN is not."""
        return self.lowest + self.shift > 0

    def report(
        self, solution: Tensor, residual: float, n_iter: int, failure: str = ""
    ) -> SolverResult:
        """Report a solution; `failure` says why it did not converge, if it did not."""
        return SolverResult(
            solution=solution,
            residual=residual,
            n_iter=n_iter,
            status="not_converged" if failure else "solved",
            top_eigenvalue=self.top,
            shift=self.shift,
            message=failure,
            ritz_values=self.ritz_values,
        )

    def not_positive_definite(self, rhs: Tensor, n_iter: int) -> SolverResult:
        """Report a damped matrix that is not positive definite.

        The solution is NaN, so that the views that depend on it take no part in the
        decision; an error would throw away the splits that can be solved.
        """
        return SolverResult(
            solution=torch.full_like(rhs, torch.nan),
            residual=torch.nan,
            n_iter=n_iter,
            status="not_positive_definite",
            top_eigenvalue=self.top,
            shift=self.shift,
            message=self._refusal(),
            ritz_values=self.ritz_values,
        )

    def _refusal(self) -> str:
        remedy = "Use"
        if self.lowest < 0:
            enough = -self.lowest / max(self.top, -self.lowest)
            remedy = f"Raise the relative damping above {enough:.2g}, or use"
        return (
            "the damped curvature is not positive definite (lowest eigenvalue seen "
            f"{self.lowest:.3g}, largest absolute one {self.top:.3g}, damping "
            f"{self.shift:.3g}) and the samples are not scored: a Hessian away from "
            "a minimum, or a criterion not convex in the outputs, has negative "
            "curvature; in a saturated net, or under a criterion linear in the "
            f"outputs, only rounding is left. {remedy} GaussNewton with a convex "
            "criterion such as CrossEntropyLoss, MSELoss or HuberLoss, scale X and y, "
            "or train for fewer epochs."
        )
