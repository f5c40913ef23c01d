"""Every solver against the dense solve of the same damped system."""

import pytest
import torch

from sk_datadrop import Dense, Lanczos
from sk_datadrop._curvature import CurvatureOperator

SIZE = 30
# One row per solver: how to make it solve to the last digit.
EXACT = {"Dense": Dense(), "Lanczos": Lanczos(max_iter=SIZE, tol=1e-15)}


def make_system(dtype=torch.float64, damping=0.1, n_rhs=1, spectrum=None):
    generator = torch.Generator().manual_seed(0)
    V, _ = torch.linalg.qr(torch.randn(SIZE, SIZE, generator=generator).double())
    if spectrum is None:
        spectrum = torch.logspace(-6, 1, SIZE)
    A = (V * spectrum.double()) @ V.T
    B = torch.randn(SIZE, n_rhs, generator=generator).double()
    operator = CurvatureOperator(lambda v: A.to(dtype) @ v, SIZE, damping)
    return operator, A, B


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize(
    ("dtype", "rtol"), [(torch.float64, 1e-6), (torch.float32, 1e-3)]
)
@pytest.mark.parametrize("damping", [0.001, 0.1, 10.0])
def test_solution_against_dense_algebra(name, dtype, rtol, damping):
    operator, A, B = make_system(dtype, damping)
    result = EXACT[name].solve(operator, B.to(dtype))
    shift = damping * float(torch.linalg.eigvalsh(A)[-1])
    expected = torch.linalg.solve(A + shift * torch.eye(SIZE).double(), B)
    error = torch.linalg.norm(result.solution.double() - expected)
    assert error <= rtol * torch.linalg.norm(expected)
    assert result.converged
    assert result.shift == pytest.approx(shift, rel=1e-4)
    assert result.top_eigenvalue == pytest.approx(shift / damping, rel=1e-4)
    assert result.residual <= rtol
    assert not result.message


@pytest.mark.parametrize("name", EXACT)
def test_every_column_is_solved_with_the_same_shift(name):
    operator, A, B = make_system(n_rhs=3)
    B[:, 1] = 0
    result = EXACT[name].solve(operator, B)
    shifted = A + result.shift * torch.eye(SIZE).double()
    torch.testing.assert_close(result.solution, torch.linalg.solve(shifted, B))


def test_lanczos_stops_at_its_tolerance_and_reports_the_true_residual():
    operator, A, B = make_system()
    result = Lanczos(tol=0.05).solve(operator, B)
    x = result.solution[:, 0]
    residual = torch.linalg.norm(A @ x + result.shift * x - B[:, 0])
    assert result.converged
    assert result.n_iter < SIZE
    assert result.residual == pytest.approx(
        float(residual / torch.linalg.norm(B)), rel=1e-6
    )


def test_lanczos_says_when_it_did_not_converge():
    operator, _, B = make_system(damping=1e-5)
    result = Lanczos(max_iter=3, tol=1e-8).solve(operator, B)
    assert not result.converged
    assert "raise max_iter" in result.message
    assert result.n_iter == 3


def test_lanczos_stops_when_the_krylov_space_is_exhausted():
    spectrum = torch.zeros(SIZE)
    spectrum[:2] = torch.tensor([1.0, 2.0])
    operator, A, B = make_system(spectrum=spectrum)
    result = Lanczos(tol=1e-30).solve(operator, B)
    expected = torch.linalg.solve(A + result.shift * torch.eye(SIZE).double(), B)
    assert result.n_iter <= 4
    torch.testing.assert_close(result.solution, expected)


def test_lanczos_of_a_zero_gradient_is_zero_and_says_so():
    operator, _, B = make_system()
    result = Lanczos().solve(operator, torch.zeros_like(B))
    assert not result.solution.any()
    assert "every influence is zero" in result.message


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("spectrum", [torch.zeros(SIZE), torch.linspace(-5, 1, SIZE)])
def test_curvature_that_cannot_be_solved(name, spectrum):
    operator, _, B = make_system(spectrum=spectrum)
    result = EXACT[name].solve(operator, B)
    assert torch.isnan(result.solution).all()
    assert not result.converged
    assert "not positive definite" in result.message
    assert "Train for fewer epochs" in result.message


def test_dense_refuses_large_systems():
    operator, _, B = make_system()
    with pytest.raises(ValueError, match="30 x 30; max_parameters is 10. Use Lanczos"):
        Dense(max_parameters=10).solve(operator, B)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"max_iter": 0}, "max_iter must be a positive integer"),
        ({"tol": 0}, "tol must be a positive number"),
    ],
)
def test_lanczos_parameters_out_of_range(parameters, message):
    operator, _, B = make_system()
    with pytest.raises(ValueError, match=message):
        Lanczos(**parameters).solve(operator, B)


def test_dense_parameters_out_of_range():
    with pytest.raises(ValueError, match="max_parameters must be a positive integer"):
        Dense(max_parameters=0).check_parameters()


def test_repr_of_a_result_shows_no_tensor():
    operator, _, B = make_system()
    text = repr(Lanczos().solve(operator, B))
    assert text.startswith("SolverResult(converged=True")
    assert "tensor" not in text
