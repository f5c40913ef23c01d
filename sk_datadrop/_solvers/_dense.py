"""The whole matrix, eigenvalue by eigenvalue: the oracle of the other solvers."""

import torch
from torch import Tensor

from sk_datadrop._checks import check_count
from sk_datadrop._curvature import CurvatureOperator
from sk_datadrop._solvers._base import Solver, SolverResult, refused


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

    See Also
    --------
    Lanczos : For nets of any size.

    Examples
    --------
    >>> from sk_datadrop import Dense
    >>> Dense(max_parameters=100)
    Dense(max_parameters=100)
    """

    def __init__(self, max_parameters: int = 5000) -> None:
        self.max_parameters = max_parameters

    def check_parameters(self) -> None:
        """Raise a ValueError if a parameter is out of range.

        Called before any training, and before anything is solved.

        Raises
        ------
        ValueError
            If `max_parameters` is not positive.

        See Also
        --------
        solve : Solves the system.

        Examples
        --------
        >>> from sk_datadrop import Dense
        >>> Dense(max_parameters=-1).check_parameters()
        Traceback (most recent call last):
            ...
        ValueError: max_parameters must be a positive integer; got -1.
        """
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
        # On some devices eigh raises where on others it returns NaN.
        if not torch.isfinite(A).all():
            nan = float("nan")
            return refused(rhs, operator.size, nan, nan, nan)
        eigenvalues, V = torch.linalg.eigh((A + A.T) / 2)
        lowest, top = float(eigenvalues[0]), float(eigenvalues.abs().max())
        shift = operator.shift(top)
        spectrum = eigenvalues.cpu().double().numpy()
        if not lowest + shift > 0:
            return refused(rhs, operator.size, lowest, top, shift, spectrum)
        solution = V @ ((V.T @ rhs) / (eigenvalues + shift)[:, None])
        errors = torch.linalg.norm(A @ solution + shift * solution - rhs, dim=0)
        return SolverResult(
            solution=solution,
            residual=float(errors.max()),
            n_iter=operator.size,
            converged=True,
            top_eigenvalue=top,
            shift=shift,
            ritz_values=spectrum,
        )
