"""Every solver against the dense solve of the same damped system."""

import re

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.base import clone

from sk_datadrop import CG, Arnoldi, Dense, Lanczos, LiSSA
from sk_datadrop._curvature import CurvatureOperator
from sk_datadrop._solvers import Solver, SolverResult, check_solver, solve
from sk_datadrop._solvers._krylov import (
    LONGEST_ESTIMATE,
    KrylovSpace,
    extreme_eigenvalues,
)

SIZE = 30
# One row per solver: how to make it solve to the last digit.
SOLVERS = {
    "Arnoldi": Arnoldi(rank=SIZE, max_iter=SIZE, tol=1e-3),
    "CG": CG(max_iter=200, tol=1e-10),
    "Dense": Dense(),
    "Lanczos": Lanczos(max_iter=SIZE, tol=1e-10),
    "LiSSA": LiSSA(max_iter=2000, tol=1e-10),
}
SPECTRA = {
    "positive": torch.logspace(-6, 1, SIZE),
    "rank two": torch.tensor([1.0, 2.0] + [0.0] * (SIZE - 2)),
    "definite once damped": torch.linspace(-0.05, 1, SIZE),
}
REFUSED = {
    "zero": torch.zeros(SIZE),
    "indefinite": torch.linspace(-5, 1, SIZE),
    "barely indefinite": torch.linspace(-0.2, 1, SIZE),
    "damped too little": torch.linspace(-0.11, 1, SIZE),
    "negative": torch.linspace(-1, -0.5, SIZE),
}
every_solver = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)


class System:
    """A matrix with a given spectrum, right-hand sides, and a count of products."""

    def __init__(
        self, spectrum="positive", dtype=torch.float64, damping=0.1, n_rhs=1, scale=1.0
    ):
        if isinstance(spectrum, str):
            spectrum = (SPECTRA | REFUSED)[spectrum]
        generator = torch.Generator().manual_seed(0)
        V, _ = torch.linalg.qr(torch.randn(SIZE, SIZE, generator=generator).double())
        self.V = V
        self.A = (V * spectrum.double()) @ V.T
        self.B = torch.randn(SIZE, n_rhs, generator=generator).double()
        self.shift = damping * float(spectrum.abs().max())
        self.dtype = dtype
        self.n_products = 0
        self.operator = CurvatureOperator(self.product, SIZE, damping, scale)

    def product(self, v):
        self.n_products += 1
        return self.A.to(self.dtype) @ v

    def solve(self, solver) -> SolverResult:
        return solve(solver, self.operator, self.B.to(self.dtype))

    def exact(self, shift):
        return torch.linalg.solve(self.A + shift * torch.eye(SIZE).double(), self.B)

    def residual(self, result):
        X = result.solution.double()
        errors = torch.linalg.norm(self.A @ X + result.shift * X - self.B, dim=0)
        norms = torch.linalg.norm(self.B, dim=0)
        return float((errors / torch.where(norms > 0, norms, 1)).max())


def assert_close(X, expected, rtol):
    assert torch.linalg.norm(X.double() - expected) <= rtol * torch.linalg.norm(
        expected
    )


def assert_refused(result, status):
    assert result.status == status
    assert not result.converged
    assert torch.isnan(result.solution).all()
    assert np.isnan(result.residual)
    assert "the samples are not scored" in result.message


def test_the_table_holds_every_solver():
    assert {type(s) for s in SOLVERS.values()} == set(Solver.__subclasses__())


@every_solver
@pytest.mark.parametrize("n_rhs", [1, 3])
@pytest.mark.parametrize("damping", [0.1, 10.0])
@pytest.mark.parametrize(
    ("dtype", "rtol"), [(torch.float64, 1e-6), (torch.float32, 1e-3)]
)
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_solution_against_dense_algebra(solver, spectrum, dtype, rtol, damping, n_rhs):
    system = System(spectrum, dtype, damping, n_rhs)
    result = system.solve(solver)
    assert result.status == "solved", result.message
    assert result.converged
    assert not result.message
    assert result.solution.dtype == dtype
    assert result.n_iter == system.n_products
    assert result.shift == pytest.approx(system.shift, rel=rtol)
    assert result.top_eigenvalue == pytest.approx(system.shift / damping, rel=rtol)
    assert_close(result.solution, system.exact(system.shift), rtol)
    rounding = 1000 * torch.finfo(dtype).eps
    assert result.residual == pytest.approx(system.residual(result), abs=rounding)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(
    st.sampled_from([*SOLVERS.values()]),
    st.integers(0, 2**31 - 1),
    st.integers(1, 12),
    st.integers(1, 3),
    st.sampled_from([1e-20, 1.0, 1e20]),
    st.sampled_from([0.02, 0.1, 2.0]),
    st.booleans(),
)
def test_generated_systems_against_dense_algebra(
    solver, seed, size, n_rhs, scale, damping, is_singular
):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(size, max(size // 2, 1) if is_singular else size))
    A = torch.tensor(scale * root @ root.T)
    rhs = torch.tensor(rng.normal(size=(size, n_rhs)))
    result = solve(solver, CurvatureOperator(A.__matmul__, size, damping), rhs)
    top = float(torch.linalg.eigvalsh(A)[-1])
    # In some starts the top eigenvector has no part.
    assume(result.top_eigenvalue > 0.9 * top)
    assert result.status == "solved"
    assert result.top_eigenvalue == pytest.approx(top)
    assert result.shift == pytest.approx(damping * top)
    damped = A + damping * top * torch.eye(size, dtype=A.dtype)
    assert_close(result.solution, torch.linalg.solve(damped, rhs), 1e-5)


@every_solver
def test_damping_is_relative_to_the_largest_absolute_eigenvalue(solver):
    system = System(torch.linspace(-1, 0.05, SIZE), damping=1.5)
    result = system.solve(solver)
    assert result.converged
    assert result.top_eigenvalue == pytest.approx(1)
    assert_close(result.solution, system.exact(1.5), 1e-6)


@every_solver
def test_damping_follows_the_scale_of_the_parameters(solver):
    scale = torch.logspace(-1, 1, SIZE, dtype=torch.float64)
    system = System(n_rhs=3, scale=scale)
    root = scale.sqrt()
    top = float(torch.linalg.eigvalsh(system.A / root / root[:, None])[-1])
    damped = system.A + 0.1 * top * torch.diag(scale)
    result = system.solve(solver)
    assert result.converged, result.message
    assert result.top_eigenvalue == pytest.approx(top)
    assert result.shift == pytest.approx(0.1 * top)
    assert_close(result.solution, torch.linalg.solve(damped, system.B), 1e-6)
    errors = torch.linalg.norm((damped @ result.solution - system.B).T / root, dim=1)
    norms = torch.linalg.norm(system.B.T / root, dim=1)
    assert result.residual == pytest.approx(float((errors / norms).max()), abs=1e-12)


@every_solver
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_small_damping(solver, dtype):
    system = System(dtype=dtype, damping=0.003)
    result = system.solve(solver)
    assert result.converged == (type(solver) is not LiSSA)
    if result.converged:
        rtol = 1e-6 if dtype == torch.float64 else 1e-2
        assert_close(result.solution, system.exact(system.shift), rtol)


@every_solver
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("spectrum", REFUSED)
def test_matrix_that_is_not_positive_definite_is_refused(solver, spectrum, dtype):
    system = System(spectrum, dtype, n_rhs=3)
    result = system.solve(solver)
    assert_refused(result, "not_positive_definite")
    assert result.solution.shape == system.B.shape
    assert result.n_iter == system.n_products
    assert result.shift == pytest.approx(0.1 * result.top_eigenvalue)
    assert "not positive definite" in result.message
    assert "negative curvature" in result.message
    assert "train for fewer epochs" in result.message
    assert ("Raise the relative damping" in result.message) == (spectrum != "zero")


@every_solver
def test_the_damping_that_a_refusal_names_is_enough(solver):
    # Up to the accuracy of the Ritz values: the solvers refuse as soon as they can.
    result = System("barely indefinite").solve(solver)
    named = float(re.search("damping above ([0-9.]+), or", result.message)[1])
    assert named == pytest.approx(0.2, abs=0.02)
    assert System("barely indefinite", damping=0.25).solve(solver).converged


@every_solver
def test_zero_right_hand_sides(solver):
    system = System(n_rhs=3)
    system.B[:, 1] = 0
    result = system.solve(solver)
    assert result.status == "solved"
    assert_close(result.solution, system.exact(system.shift), 1e-6)
    assert not result.solution[:, 1].any()
    assert "is zero for 1 of 3 groups of held-out samples" in result.message
    n_products = system.n_products
    system.B[:] = 0
    result = system.solve(solver)
    assert result.solution.shape == system.B.shape
    assert not result.solution.any()
    assert result.residual == 0
    assert result.status == "zero_gradient"
    assert result.converged
    assert result.n_iter == 0
    assert system.n_products == n_products
    assert "is zero, so every influence is zero" in result.message


@every_solver
def test_zero_right_hand_side_of_a_refused_matrix_is_refused_too(solver):
    system = System("indefinite", n_rhs=3)
    system.B[:, 1] = 0
    assert_refused(system.solve(solver), "not_positive_definite")


@every_solver
@pytest.mark.parametrize("scale", [1e-18, 1e18])
def test_scale_of_the_right_hand_side_does_not_matter(solver, scale):
    system = System(dtype=torch.float32)
    reference = system.solve(solver).solution
    system.B *= scale
    assert_close(system.solve(solver).solution / scale, reference.double(), 1e-4)


@every_solver
@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_scale_of_the_matrix_does_not_matter(solver, scale):
    system = System(dtype=torch.float32)
    reference = system.solve(solver).solution
    system.A *= scale
    assert_close(system.solve(solver).solution * scale, reference.double(), 1e-4)


@every_solver
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_right_hand_sides_that_are_not_finite_are_refused(solver, value):
    system = System(n_rhs=2)
    system.B[3, 1] = value
    result = system.solve(solver)
    assert_refused(result, "not_finite")
    assert "not finite" in result.message
    assert result.n_iter == system.n_products == 0


@every_solver
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_products_that_are_not_finite_are_refused(solver, value):
    system = System(n_rhs=2)
    system.A[3, 4] = value
    result = system.solve(solver)
    assert_refused(result, "not_positive_definite")
    assert result.n_iter == system.n_products


@every_solver
def test_solvers_write_to_no_tensor_that_is_not_theirs(solver):
    system = System(n_rhs=2)
    seen = [(system.B, system.B.clone())]

    def product(v):
        Av = system.A @ v
        seen.extend([(v, v.clone()), (Av, Av.clone())])
        return Av

    solve(solver, CurvatureOperator(product, SIZE, 0.1), system.B)
    assert len(seen) > 4
    assert all(torch.equal(tensor, before) for tensor, before in seen)


@pytest.mark.parametrize("solver", [CG(), Lanczos(), LiSSA()], ids=repr)
def test_iterative_solvers_stop_at_their_tolerance(solver):
    system = System()
    result = system.solve(solver)
    assert result.status == "solved"
    assert 0.01 * solver.tol < result.residual <= solver.tol
    assert result.residual == pytest.approx(system.residual(result), rel=1e-6)
    assert result.shift == pytest.approx(system.shift, rel=solver.tol)
    assert result.shift != pytest.approx(system.shift, rel=1e-12)
    stricter = clone(solver).set_params(tol=1e-2 * solver.tol, max_iter=1000)
    assert system.solve(stricter).n_iter > result.n_iter


@pytest.mark.parametrize(
    "solver",
    [
        CG(max_iter=3, tol=1e-8),
        Lanczos(max_iter=3, tol=1e-8),
        LiSSA(max_iter=3, tol=1e-8),
        Arnoldi(rank=3, max_iter=3, tol=1e-8),
    ],
    ids=repr,
)
def test_solver_that_does_not_converge_says_what_to_change(solver):
    system = System(n_rhs=2)
    result = system.solve(solver)
    assert result.status == "not_converged"
    assert not result.converged
    assert torch.isfinite(result.solution).all()
    assert result.residual == pytest.approx(system.residual(result), rel=1e-6)
    assert result.residual > 1e-8
    assert result.n_iter == system.n_products
    assert "max_iter" in result.message
    assert "raise the damping of the curvature" in result.message


@pytest.mark.parametrize("name", ["CG", "Lanczos", "LiSSA"])
def test_one_refused_right_hand_side_is_a_refusal_of_all(name):
    system = System("indefinite", n_rhs=3)
    positive = system.V[:, -5:]
    system.B[:, 0] = positive.sum(1)
    system.B[:, 2] = positive[:, 0]
    result = system.solve(SOLVERS[name])
    assert_refused(result, "not_positive_definite")
    assert result.n_iter == system.n_products
    # The second one is refused, and the third not looked at.
    system.B = system.B[:, :2]
    assert system.solve(SOLVERS[name]).n_iter == result.n_iter
    system.B = system.B[:, :1]
    assert system.solve(SOLVERS[name]).status == "solved"


@pytest.mark.parametrize("name", ["CG", "Lanczos", "LiSSA"])
def test_worst_right_hand_side_decides_whether_all_are_converged(name):
    easy_first = System(n_rhs=2)
    easy_first.B[:, 0] = easy_first.V[:, -1]
    hard_first = System(n_rhs=2)
    hard_first.B = easy_first.B.flip(1)
    solver = clone(SOLVERS[name]).set_params(max_iter=6)
    for system in (easy_first, hard_first):
        result = system.solve(solver)
        assert result.status == "not_converged"
        assert f"{name} stopped after max_iter=6 products" in result.message
        assert result.residual == pytest.approx(system.residual(result), rel=1e-6)
    system.B = easy_first.B[:, :1]
    assert system.solve(solver).status == "solved"


@every_solver
def test_largest_ritz_values_are_eigenvalues(solver):
    system = System(n_rhs=2)
    largest = system.solve(solver).ritz_values[-5:]
    assert largest.dtype == np.float64
    exact = torch.linalg.eigvalsh(system.A).numpy()
    np.testing.assert_allclose(largest, exact[SIZE - len(largest) :], rtol=1e-6)


@pytest.mark.parametrize("name", ["CG", "LiSSA"])
def test_no_ritz_values_without_a_whole_basis(name):
    # Copies of eigenvalues would be among them.
    assert not len(System().solve(SOLVERS[name]).ritz_values)


class TestLanczos:
    def test_the_top_eigenvalue_costs_no_product_at_the_default_damping(self):
        for spectrum in ("positive", "rank two"):
            system = System(spectrum)
            result = system.solve(Lanczos())
            assert result.n_iter > 1
            for size in range(1, result.n_iter + 1):
                shorter = system.solve(Lanczos(max_iter=size, tol=1e-12))
                assert (shorter.residual <= Lanczos().tol) == (size == result.n_iter)

    def test_takes_no_products_beyond_its_krylov_space(self):
        system = System()
        result = system.solve(Lanczos(max_iter=4, tol=1e-12))
        assert result.n_iter == 4
        krylov = [system.B[:, 0]]
        for _ in range(3):
            krylov.append(system.A @ krylov[-1])
        Q, _ = torch.linalg.qr(torch.stack(krylov, dim=1))
        expected = torch.linalg.eigvalsh(Q.T @ system.A @ Q)
        np.testing.assert_allclose(result.ritz_values, expected, rtol=1e-6)

    def test_stops_when_the_krylov_space_is_exhausted(self):
        result = System("rank two").solve(Lanczos(tol=1e-200))
        assert result.converged
        assert result.n_iter == 3
        assert 1e-200 < result.residual < 1e-12

    def test_shift_comes_from_the_first_right_hand_side_only(self):
        system = System(torch.tensor([50.0] + [0.5, 0.6] * SIZE)[:SIZE], n_rhs=2)
        # This one knows the top eigenvalue only, the other all but misses it.
        system.B[:, 0] = system.V[:, 0]
        system.B[:, 1] = system.V[:, 1:].sum(1) + 1e-3 * system.V[:, 0]
        result = system.solve(Lanczos(tol=0.02))
        assert result.converged
        assert result.top_eigenvalue == pytest.approx(50)
        assert_close(result.solution, system.exact(system.shift), 0.02)
        assert result.n_iter == 2
        system.B = system.B.flip(1)
        result = system.solve(Lanczos(tol=0.02))
        assert result.n_iter > 2

    def test_refuses_at_once_when_the_shift_is_known(self):
        system = System("indefinite", n_rhs=2)
        system.B[:, 0] = system.V[:, -1]
        system.B[:, 1] = system.V[:, 0]
        system.B[:, 1] += 0.1 * system.V.sum(1)
        result = system.solve(Lanczos(tol=1e-10))
        assert_refused(result, "not_positive_definite")
        assert result.n_iter == 2


class TestCG:
    def test_exact_preconditioner_needs_one_product(self):
        system = System(n_rhs=2)
        reference = system.solve(CG(tol=1e-8, max_iter=50))

        def inverse(r, shift):
            return torch.linalg.solve(system.A + shift * torch.eye(SIZE).double(), r)

        result = system.solve(CG(tol=1e-8, max_iter=50, preconditioner=inverse))
        b = system.B[:, 0] / torch.linalg.norm(system.B[:, 0])
        space = extreme_eigenvalues(system.operator, b, tol=1e-8, max_iter=50)
        assert result.n_iter == space.size + 2 < reference.n_iter
        assert_close(result.solution, reference.solution, 1e-6)

    def test_negative_curvature_that_the_estimate_did_not_see(self):
        system = System("indefinite", n_rhs=2)
        # An eigenvector: the estimate and the solution need one product each.
        system.B[:, 0] = system.V[:, -1]
        # The second direction of this one is negative, the first is not.
        system.B[:, 1] = system.V[:, -1] + 0.3 * system.V[:, 0]
        assert system.B[:, 1] @ system.A @ system.B[:, 1] > 0
        result = system.solve(CG())
        assert_refused(result, "not_positive_definite")
        assert result.n_iter == system.n_products == 4
        assert result.top_eigenvalue == pytest.approx(1)
        # The quotient of the second direction, in the plane of the two eigenvectors.
        M = np.diag([1.1, -4.9])
        b = np.array([1, 0.3]) / np.sqrt(1.09)
        r = b - M @ b / (b @ M @ b)
        p = r + b * (r @ r)
        lowest = float(re.search("eigenvalue seen ([-0-9.]+)", result.message)[1])
        assert lowest == pytest.approx(p @ M @ p / (p @ p) - 0.1, rel=1e-2)
        system.B = system.B[:, 1:]
        assert system.solve(CG(max_iter=1, tol=1.0)).status == "not_converged"

    def test_tolerance_below_rounding_is_not_mistaken_for_negative_curvature(self):
        system = System(dtype=torch.float32)
        system.A *= 1e-10
        result = system.solve(CG(tol=1e-30, max_iter=500))
        assert result.converged
        assert result.n_iter < 100

    def test_preconditioner_that_is_not_positive_definite(self):
        with pytest.raises(ValueError, match="preconditioner is not positive definite"):
            System().solve(CG(preconditioner=lambda r, shift: -r))


class TestLiSSA:
    def test_is_the_neumann_series(self):
        system = System()
        result = system.solve(LiSSA(max_iter=5, tol=1e-12))
        scale = result.top_eigenvalue + result.shift
        M = system.A + result.shift * torch.eye(SIZE).double()
        term, total = system.B / scale, torch.zeros(SIZE, 1).double()
        for _ in range(5):
            total += term
            term = term - M @ term / scale
        assert_close(result.solution, total, 1e-10)

    def test_falls_back_to_cg_when_it_diverges(self):
        spectrum = torch.tensor([50.0] + [0.5, 1.0] * (SIZE // 2))[:SIZE]
        system = System(spectrum)
        # A right-hand side that all but misses the largest eigenvalue.
        system.B = system.V[:, 1:].sum(1, keepdim=True) + 1e-6 * system.V[:, :1]
        result = system.solve(LiSSA(tol=3e-3))
        assert result.top_eigenvalue == pytest.approx(1, rel=1e-3)
        assert "LiSSA diverged after" in result.message
        assert "conjugate gradients took over; use CG or Lanczos" in result.message
        M = system.A + result.shift * torch.eye(SIZE).double()
        scale, residuals = result.top_eigenvalue + result.shift, [system.B]
        for _ in range(20):
            residuals.append(residuals[-1] - M @ residuals[-1] / scale)
        norms = torch.linalg.norm(torch.cat(residuals, dim=1), dim=0)
        rises = norms[1:] > 2 * norms[:-1].cummin(0).values
        n_terms = int(rises.int().argmax()) + 1
        assert f"LiSSA diverged after {n_terms} products" in result.message
        assert result.converged
        assert result.n_iter == system.n_products
        assert result.residual == pytest.approx(system.residual(result), abs=1e-9)
        assert_close(result.solution, system.exact(result.shift), 1e-2)

    def test_refuses_if_cg_finds_negative_curvature(self):
        system = System("indefinite", n_rhs=2)
        system.B[:, 0] = system.V[:, -5:].sum(1)
        result = system.solve(LiSSA())
        assert "LiSSA diverged after" in result.message
        assert "Raise the relative damping above" in result.message
        assert_refused(result, "not_positive_definite")
        assert result.n_iter == system.n_products


class TestArnoldi:
    @pytest.mark.parametrize("large", [[1.0, 2.0, 4.0], [1.0, -2.0, 4.0]])
    def test_low_rank_inverse_with_the_damping_on_the_complement(self, large):
        spectrum = torch.full((SIZE,), 1e-9)
        spectrum[:3] = torch.tensor(large)
        system = System(spectrum, damping=0.6)
        result = system.solve(Arnoldi(rank=3, max_iter=10))
        V = system.V[:, :3]
        inside = (V / (spectrum[:3] + 2.4)) @ V.T @ system.B
        outside = (system.B - V @ V.T @ system.B) / 2.4
        assert result.converged
        assert_close(result.solution, inside + outside, 1e-6)

    def test_stops_growing_once_its_pairs_are_precise(self):
        system = System(10.0 ** -torch.arange(SIZE))
        result = system.solve(Arnoldi(rank=4, max_iter=SIZE, tol=0.05))
        assert 4 <= result.n_iter - 1 < 15
        assert result.converged

    def test_refuses_before_its_space_is_full(self):
        result = System("indefinite").solve(Arnoldi(rank=SIZE, max_iter=SIZE))
        assert_refused(result, "not_positive_definite")
        assert result.n_iter < 15

    def test_products_do_not_grow_with_the_right_hand_sides(self):
        one, many = System(), System(n_rhs=8)
        solver = Arnoldi(rank=5, max_iter=15)
        assert many.solve(solver).n_iter == one.solve(solver).n_iter + 7

    def test_rank_that_is_too_low_is_not_called_converged(self):
        system = System(torch.linspace(0.5, 1, SIZE))
        result = system.solve(Arnoldi(rank=5, max_iter=20))
        assert not result.converged
        assert result.residual == pytest.approx(system.residual(result), rel=1e-9)
        assert result.residual > 0.1
        assert "raise rank and max_iter" in result.message

    def test_random_state(self):
        def solution(seed):
            solver = Arnoldi(rank=5, max_iter=5, random_state=seed)
            return System().solve(solver).solution

        assert torch.equal(solution(3), solution(3))
        assert not torch.equal(solution(3), solution(4))
        assert not torch.equal(solution(None), solution(None))


class TestDense:
    def test_reports_the_spectrum(self):
        result = System("definite once damped").solve(Dense())
        expected = SPECTRA["definite once damped"]
        np.testing.assert_allclose(result.ritz_values, expected, atol=1e-7)

    def test_asks_for_no_eigenvalues_of_what_is_not_finite(self, monkeypatch):
        monkeypatch.delattr(torch.linalg, "eigh")
        system = System()
        system.A[3, 4] = torch.nan
        assert_refused(system.solve(Dense()), "not_positive_definite")

    def test_refuses_large_systems(self):
        with pytest.raises(
            ValueError, match="30 x 30; max_parameters is 10. Use Lanczos"
        ):
            System().solve(Dense(max_parameters=10))


class TestKrylovSpace:
    def space(self, system, size, n_kept=None):
        b = system.B[:, 0].to(system.dtype)
        space = KrylovSpace(system.operator, b / torch.linalg.norm(b), n_kept)
        for _ in range(size):
            space.expand()
        return space

    @pytest.mark.parametrize(
        ("dtype", "atol"), [(torch.float64, 1e-13), (torch.float32, 1e-5)]
    )
    def test_basis_stays_orthonormal(self, dtype, atol):
        Q = self.space(System(dtype=dtype), 20).lift(np.eye(20))
        torch.testing.assert_close(
            Q.T @ Q, torch.eye(20, dtype=dtype), rtol=0, atol=atol
        )

    def test_errors_bound_the_distance_to_an_eigenvalue(self):
        system = System()
        space = self.space(system, 6)
        exact = torch.linalg.eigvalsh(system.A).numpy()
        distances = np.abs(space.ritz_values[:, None] - exact).min(1)
        assert (distances <= space.errors * (1 + 1e-9)).all()
        assert space.errors.max() > 1e-3

    @pytest.mark.parametrize("tol", [0.1, 1e-3, 1e-6])
    @pytest.mark.parametrize("spectrum", [*SPECTRA, "indefinite", "negative"])
    def test_settled_top_eigenvalue_is_as_precise_as_asked(self, spectrum, tol):
        system = System(spectrum)
        exact = float(torch.linalg.eigvalsh(system.A).abs().max())
        space = self.space(system, 1)
        while not space.top_settled(tol):
            space.expand()
        assert space.top == pytest.approx(exact, rel=tol)
        assert space.size < SIZE
        assert not self.space(system, 1).top_settled(tol)

    def test_top_eigenvalue_settles_at_rounding_whatever_is_asked(self):
        space = self.space(System(dtype=torch.float32), 1)
        while not space.top_settled(100 * torch.finfo(torch.float32).eps):
            assert not space.top_settled(1e-30)
            space.expand()
        assert not space.exhausted
        assert space.top_settled(1e-30)

    @pytest.mark.parametrize("spectrum", SPECTRA)
    def test_two_kept_vectors_are_enough_for_the_top(self, spectrum):
        system = System(spectrum, dtype=torch.float32)
        b = system.B[:, 0].float()
        space = extreme_eigenvalues(
            system.operator, b / torch.linalg.norm(b), tol=1e-5, max_iter=100
        )
        exact = float(torch.linalg.eigvalsh(system.A).abs().max())
        assert space.top == pytest.approx(exact, rel=1e-4)
        assert space.size > 2
        with pytest.raises(ValueError, match="longer"):
            space.lift(np.eye(space.size))

    def test_estimate_of_the_top_is_cut_short(self):
        spectrum = torch.linspace(0, 1, 400).double()
        operator = CurvatureOperator(lambda v: spectrum * v, 400, 0.1)
        start = torch.full((400,), 0.05).double()
        for max_iter, size in [(3, 3), (1000, LONGEST_ESTIMATE)]:
            space = extreme_eigenvalues(operator, start, tol=1e-14, max_iter=max_iter)
            assert space.size == size


@pytest.mark.parametrize(
    ("solver", "error", "message"),
    [
        (Lanczos(max_iter=0), ValueError, "max_iter == 0, must be >= 1"),
        (Lanczos(tol=0), ValueError, "tol == 0, must be > 0"),
        (CG(max_iter=2.5), TypeError, "max_iter must be an instance of int"),
        (CG(tol="small"), TypeError, "tol must be an instance of float, not str"),
        (CG(preconditioner="no"), TypeError, "preconditioner must be None or a call"),
        (LiSSA(max_iter=-1), ValueError, "max_iter == -1, must be >= 1"),
        (LiSSA(tol=float("nan")), ValueError, "tol == nan, must be > 0"),
        (Arnoldi(rank=0), ValueError, "rank == 0, must be >= 1"),
        (Arnoldi(max_iter=None), TypeError, "max_iter must be an instance of int"),
        (Arnoldi(tol=-1), ValueError, "tol == -1, must be > 0"),
        (Arnoldi(rank=9, max_iter=8), ValueError, "rank must not exceed max_iter"),
        (Arnoldi(random_state=-1), ValueError, "random_state == -1, must be >= 0"),
        (Arnoldi(random_state="0"), TypeError, "random_state must be an instance of"),
        (Dense(max_parameters=0), ValueError, "max_parameters == 0, must be >= 1"),
    ],
    ids=lambda value: repr(value) if isinstance(value, Solver) else "",
)
def test_parameters_out_of_range(solver, error, message):
    with pytest.raises(error, match=message):
        check_solver(solver)
    system = System()
    with pytest.raises(error, match=message):
        system.solve(solver)
    assert system.n_products == 0


@every_solver
def test_parameters_in_range(solver):
    check_solver(solver)
    check_solver(type(solver)())


def test_repr_of_a_result_shows_no_tensor():
    text = repr(System().solve(Lanczos()))
    assert text.startswith("SolverResult(status='solved'")
    assert "tensor" not in text
