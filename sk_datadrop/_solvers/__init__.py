"""Solvers of the damped curvature system. To add one: a file, an export here."""

from sk_datadrop._solvers._base import Solver, SolverResult
from sk_datadrop._solvers._dense import Dense
from sk_datadrop._solvers._lanczos import Lanczos

__all__ = ["Dense", "Lanczos", "Solver", "SolverResult"]
