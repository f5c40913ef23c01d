"""Solvers of the damped curvature system. To add one: a file, an export here."""

from sk_datadrop._solvers._arnoldi import Arnoldi
from sk_datadrop._solvers._base import (
    ZERO_GRADIENT,
    Solver,
    SolverResult,
    SolverStatus,
    check_solver,
    solve,
)
from sk_datadrop._solvers._cg import CG
from sk_datadrop._solvers._dense import Dense
from sk_datadrop._solvers._lanczos import Lanczos
from sk_datadrop._solvers._lissa import LiSSA

__all__ = [
    "CG",
    "ZERO_GRADIENT",
    "Arnoldi",
    "Dense",
    "Lanczos",
    "LiSSA",
    "Solver",
    "SolverResult",
    "SolverStatus",
    "check_solver",
    "solve",
]
