"""One right-hand side after the other, and their results joined."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from sk_datadrop._curvature import CurvatureOperator
from sk_datadrop._solvers._base import SolverResult
from sk_datadrop._solvers._krylov import extreme_eigenvalues
from sk_datadrop._solvers._spectrum import Spectrum


def solve_columns(
    operator: CurvatureOperator,
    rhs: Tensor,
    solve_column: Callable[[Spectrum, Tensor], SolverResult],
    max_iter: int,
    tol: float,
) -> SolverResult:
    """Find the shift first, then call ``solve_column(spectrum, b)`` for each b.

    The products that find it are with the Krylov space of the first right-hand side.
    """
    space = extreme_eigenvalues(operator, rhs[:, 0], tol=tol, max_iter=max_iter)
    # Some of these Ritz values are copies, see `KrylovSpace`: they are not reported.
    spectrum = replace(space.spectrum(), ritz_values=np.empty(0))
    if not spectrum.is_positive_definite:
        return spectrum.not_positive_definite(rhs, space.size)
    result = merge_columns((solve_column(spectrum, b) for b in rhs.T), rhs)
    return replace(result, n_iter=space.size + result.n_iter)


def merge_columns(columns: Iterable[SolverResult], rhs: Tensor) -> SolverResult:
    """Join results for one right-hand side each.

    A refusal is about the matrix, so one is a refusal of all, and no more columns
    are asked for.
    """
    results: list[SolverResult] = []
    for result in columns:
        results.append(result)
        if result.status == "not_positive_definite":
            nowhere = torch.full_like(rhs, torch.nan)
            return replace(result, solution=nowhere, n_iter=_n_iter(results))
    return replace(
        results[0],
        solution=torch.stack([r.solution for r in results], dim=1),
        residual=max(r.residual for r in results),
        n_iter=_n_iter(results),
        status="solved" if all(r.converged for r in results) else "not_converged",
        top_eigenvalue=max(r.top_eigenvalue for r in results),
        message=next((r.message for r in results if r.message), ""),
    )


def _n_iter(results: list[SolverResult]) -> int:
    return sum(r.n_iter for r in results)
