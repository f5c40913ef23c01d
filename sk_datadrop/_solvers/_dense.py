"""The whole matrix, eigenvalue by eigenvalue: the oracle of the other solvers."""

from numbers import Integral

import torch
from torch import Tensor

from sk_datadrop._curvature import CurvatureOperator
from sk_datadrop._solvers._base import Solver, SolverResult, unsolvable


class Dense(Solver):
    """Build the curvature matrix and diagonalise it.

    Needs one product per parameter and memory for the square of their number:
    for small nets and as an oracle.

    Parameters
    ----------
    max_parameters : int, default=5000
        Refuse larger systems.

    Raises
    ------
    ValueError
        From `solve`, if there are more parameters than `max_parameters`.

    Examples
    --------
    >>> from sk_datadrop import Dense
    >>> Dense(max_parameters=100)
    Dense(max_parameters=100)
    """

    def __init__(self, max_parameters: int = 5000) -> None:
        self.max_parameters = max_parameters

    def check_parameters(self) -> None:
        """Raise a ValueError if a parameter is out of range."""
        if not isinstance(self.max_parameters, Integral) or self.max_parameters < 1:
            raise ValueError(
                f"max_parameters must be a positive integer; got "
                f"{self.max_parameters!r}."
            )

    def solve(self, operator: CurvatureOperator, rhs: Tensor) -> SolverResult:
        """Solve ``(A + shift I) X = rhs`` by a symmetric eigendecomposition.

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
        if operator.size > self.max_parameters:
            raise ValueError(
                f"Dense would build a matrix of {operator.size} x {operator.size}; "
                f"max_parameters is {self.max_parameters}. Use Lanczos, or raise "
                "max_parameters."
            )
        identity = torch.eye(operator.size, dtype=rhs.dtype, device=rhs.device)
        A = torch.stack([operator.product(row) for row in identity])
        eigenvalues, V = torch.linalg.eigh((A + A.T) / 2)
        top = max(float(eigenvalues[-1]), 0.0)
        shift = operator.shift(top)
        failure = unsolvable(rhs, operator.size, float(eigenvalues[0]), top, shift)
        if failure:
            return failure
        solution = V @ ((V.T @ rhs) / (eigenvalues + shift)[:, None])
        errors = torch.linalg.norm(A @ solution + shift * solution - rhs, dim=0)
        scales = torch.linalg.norm(rhs, dim=0)
        residual = float((errors / torch.where(scales > 0, scales, 1)).max())
        return SolverResult(solution, residual, operator.size, True, top, shift)
