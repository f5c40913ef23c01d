"""The whole matrix, eigenvalue by eigenvalue: the oracle of the other solvers."""

import torch
from torch import Tensor

from sk_datadrop._curvature import CurvatureOperator
from sk_datadrop._solvers._base import Solver, SolverResult, check_count
from sk_datadrop._solvers._spectrum import Spectrum


class Dense(Solver):
    """Build the curvature matrix and diagonalise it.

    It needs one product per parameter, and memory for the square of their number. Use
    it for small nets and as a reference.

    Parameters
    ----------
    max_parameters : int, default=5000
        Refuse larger systems.

    Raises
    ------
    ValueError
        If there are more parameters than `max_parameters`, when it solves.

    See Also
    --------
    Lanczos : Solves for nets of any size.

    Examples
    --------
    >>> from sk_datadrop import Dense
    >>> Dense(max_parameters=100)
    Dense(max_parameters=100)
    """

    def __init__(self, max_parameters: int = 5000) -> None:
        self.max_parameters = max_parameters

    def _check_parameters(self) -> None:
        check_count("max_parameters", self.max_parameters)

    def _solve(self, operator: CurvatureOperator, rhs: Tensor) -> SolverResult:
        if operator.size > self.max_parameters:
            raise ValueError(
                f"Dense would build a matrix of {operator.size} x {operator.size}; "
                f"max_parameters is {self.max_parameters}. Use Lanczos, or raise "
                "max_parameters."
            )
        identity = torch.eye(operator.size, dtype=rhs.dtype, device=rhs.device)
        A = torch.stack([operator.product(row) for row in identity])
        # On some devices eigh raises an error where on others it returns NaN.
        if not torch.isfinite(A).all():
            unknown = Spectrum(torch.nan, torch.nan, torch.nan)
            return unknown.not_positive_definite(rhs, operator.size)
        eigenvalues, V = torch.linalg.eigh((A + A.T) / 2)
        lowest, top = float(eigenvalues[0]), float(eigenvalues.abs().max())
        shift = operator.shift(top)
        spectrum = Spectrum(lowest, top, shift, eigenvalues.cpu().double().numpy())
        if not spectrum.is_positive_definite:
            return spectrum.not_positive_definite(rhs, operator.size)
        solution = V @ ((V.T @ rhs) / (eigenvalues + shift)[:, None])
        errors = torch.linalg.norm(A @ solution + shift * solution - rhs, dim=0)
        return spectrum.report(solution, float(errors.max()), operator.size)
