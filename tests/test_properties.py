"""Generated cases: whatever comes in, a right answer or an error that helps.

Properties that hold for all input, by module in the order of the data; the oracles for
formulas are in the files of the modules.
"""

import re
import warnings

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
import torch
from fits import (
    Net,
    check_error,
    check_predictions,
    fit,
    small_classifier,
    small_regressor,
    table,
)
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from sklearn.exceptions import ConvergenceWarning
from torch import nn

from sk_datadrop import (
    CG,
    Arnoldi,
    DataDropoutClassifier,
    DataDropoutRegressor,
    Dense,
    GaussNewton,
    InfluenceFunctions,
    Lanczos,
    LiSSA,
    influence_scores,
)
from sk_datadrop._curvature import CurvatureOperator
from sk_datadrop._drop import (
    as_many_rows,
    candidate_fractions,
    drop_fewer,
    keep_mask,
    mean_influence,
    most_harmful_first,
    standard_error,
)
from sk_datadrop._influence import _finite
from sk_datadrop._judge import Evidence, Predictions, chance_of_harm
from sk_datadrop._objective import HeldOutObjective
from sk_datadrop._samples import Samples, class_codes
from sk_datadrop._solvers import solve
from sk_datadrop._splits import held_out_splits
from sk_datadrop.datasets import corrupt_targets, flip_labels
from sk_datadrop.metrics import mean_squared_error, r2_score


def cases(n):
    return settings(
        max_examples=n,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
        # Shrinking a failure that needs a fit would last minutes.
        phases=[Phase.explicit, Phase.generate],
    )


seeds = st.integers(0, 2**31 - 1)
engines = st.builds(
    lambda views: InfluenceFunctions(n_checkpoints=views[0], n_groups=views[1]),
    st.sampled_from([(1, 1), (1, 2), (2, 1)]),
)


# Samples of every shape and type, through a whole fit.

sample_shapes = st.sampled_from([(1,), (3,), (1, 5), (2, 4), (1, 3, 3), (2, 2, 2)])
X_types = st.sampled_from(
    ["i1", "u1", "i4", "i8", "f2", "f4", "f8", bool, object, "list", "frame"]
)
X_kinds = st.sampled_from(
    ["normal", "zero", "constant", "duplicates", "huge", "tiny", "one feature"]
)
label_types = st.sampled_from(
    ["i1", "u8", "i8", "f4", "f8", bool, "U", object, "list", "series", "category"]
)
target_kinds = st.sampled_from(
    ["normal", "zero", "constant", "huge", "tiny", "one outlier", "whole"]
)
cvs = st.sampled_from([2, 0.5, 0.4])
fractions = st.sampled_from(["harmful", 0.0, 0.1, 0.25, 0.5, 0.99])


def make_X(seed, n, shape, kind):
    X = np.random.default_rng(seed).normal(size=(n, *shape))
    scale = {"zero": 0, "huge": 1e30, "tiny": 1e-38}.get(kind, 1)
    if kind == "constant":
        X[:] = 1
    if kind == "duplicates":
        X[n // 2 :] = X[0]
    if kind == "one feature":
        X[:, ..., 0] *= 1e4
    return X * scale


def of_type(X, dtype):
    if dtype == "list":
        return X.tolist()
    if dtype == "frame":
        return pd.DataFrame(X) if X.ndim == 2 else X
    if dtype in ("f2", "i1", "u1", "i4", "i8", bool, object):
        X = np.clip(X, -100, 100)
    return np.abs(X).astype(dtype) if dtype == "u1" else X.astype(dtype)


def labels_of_type(codes, dtype):
    if dtype == "U":
        return np.array(["no", "yes", "perhaps"])[codes]
    if dtype == "list":
        return [f"class {code}" for code in codes]
    if dtype in ("series", "category"):
        return pd.Series(codes, index=codes + 7, dtype=dtype.replace("series", "i8"))
    if dtype is object:
        return np.array(["no", "yes", "perhaps"], dtype=object)[codes]
    return codes.astype(dtype)


@cases(40)
@given(
    seeds, st.integers(8, 20), sample_shapes, X_kinds, X_types, label_types, engines,
    cvs, fractions, st.sampled_from([1, 3, 8, 50]),
)  # fmt: skip
def test_samples_of_any_type_are_classified(
    seed, n, shape, kind, dtype, label_type, engine, cv, fraction, batch_size
):
    X = of_type(make_X(seed, n, shape, kind), dtype)
    y = labels_of_type(np.arange(n) % 2, label_type)
    model = DataDropoutClassifier(
        small_classifier(int(np.prod(shape)), 2, batch_size=batch_size),
        cv=cv,
        engine=engine,
        drop_fraction=fraction,
        random_state=seed,
    )
    error, _ = fit(model, X, y)
    assert error is None, error
    check_predictions(model, X, y)
    assert model.input_shape_ == shape


class ImageNet(Net):
    def forward(self, X):
        return super().forward(X).reshape(-1, 1, 2, 2)


@cases(40)
@given(
    seeds, st.integers(8, 20), sample_shapes, X_kinds, target_kinds,
    st.sampled_from([(), (1,), (3,), (1, 2, 2)]), engines, cvs, fractions,
)  # fmt: skip
def test_targets_of_any_kind_are_regressed(
    seed, n, shape, kind, target_kind, target_shape, engine, cv, fraction
):
    X = make_X(seed, n, shape, kind)
    y = make_X(seed + 1, n, target_shape, target_kind)
    if target_kind == "one outlier":
        y[0] = 1e9
    if target_kind == "whole":
        y = np.round(y).astype(int)
    net = small_regressor(int(np.prod(shape)), int(np.prod(target_shape)))
    if len(target_shape) == 3:
        net.set_params(module=ImageNet)
    model = DataDropoutRegressor(
        net, cv=cv, engine=engine, drop_fraction=fraction, random_state=seed
    )
    error, _ = fit(model, X, y)
    if target_kind == "huge":
        # Their square is more than float32 holds.
        assert re.search("split 1 of .: the training loss became inf", str(error))
    else:
        assert error is None, error
        check_predictions(model, X, y)


@cases(30)
@given(
    seeds,
    st.sampled_from([np.nan, np.inf, -np.inf, 1e39]),
    st.sampled_from(["X", "y", "X_val", "y_val"]),
    st.data(),
)
def test_values_that_are_no_numbers_are_refused(seed, value, where, data):
    X, _ = table(seed)
    samples = {"X": X, "y": X[:, 0], "X_val": X[:5], "y_val": X[:5, 0]}
    samples = {name: values.astype(float) for name, values in samples.items()}
    spoilt = samples[where].reshape(-1)
    spoilt[data.draw(st.integers(0, len(spoilt) - 1))] = value
    # numpy warns of what float32 does not hold, before it is refused.
    with np.errstate(over="ignore"):
        error, _ = fit(DataDropoutRegressor(small_regressor(3), cv=2), **samples)
    assert re.match(rf"(Input )?{where}(: Input \w+)? contains (NaN|infi)", str(error))


@cases(20)
@given(
    seeds, st.integers(0, 12), st.integers(0, 12), st.sampled_from([None, 1, 3, 8]),
    st.integers(1, 3),
)  # fmt: skip
def test_samples_may_be_held_out_by_the_caller(seed, n, n_y, n_groups, n_features):
    X, y = table(seed)
    X_val, y_val = np.resize(X, (n, n_features)), np.resize(y, n_y)
    model = DataDropoutClassifier(
        small_classifier(3, 2),
        engine=InfluenceFunctions(n_groups=n_groups),
        random_state=0,
    )
    error, _ = fit(model, X, y, X_val=X_val, y_val=y_val)
    if n == n_y > 1 and n_features == 3:
        assert error is None, error
        assert len(model.influence_per_view_) == min(n_groups or 8, n)
    else:
        assert re.match("(X|y)_val", str(error))


# Splits.

indices = st.one_of(
    st.lists(st.integers(-1, 16), max_size=16),
    st.lists(st.integers(0, 15), min_size=2, max_size=16, unique=True),
    st.lists(st.booleans(), min_size=15, max_size=16),
    st.lists(st.floats(0, 15), max_size=6),
    st.sampled_from([None, 3, "rows", [[0, 1], [2, 3]], ["a", "b"]]),
)
pairs_of_indices = st.one_of(
    st.lists(st.tuples(indices, indices), max_size=3),
    st.permutations(range(16)).map(lambda order: [(order[:9], order[9:])]),
    st.lists(st.booleans(), min_size=16, max_size=16).map(
        lambda mask: [(mask, [not entry for entry in mask])]
    ),
)


def named(part):
    """Return the samples that indices or a mask name, or None if they name none."""
    types = {type(entry) for entry in part} if isinstance(part, list) else {str}
    if types == {bool}:
        return list(np.flatnonzero(part)) if len(part) == 16 else None
    fine = types <= {int} and len(set(part)) == len(part) and set(part) <= {*range(16)}
    return part if fine else None


def splits_well(pair, y):
    train, held_out = map(named, pair)
    return (
        train is not None
        and held_out is not None
        and len(train) >= 1
        and len(held_out) >= 2
        and not set(train) & set(held_out)
        and set(y[train]) == set(y)
    )


def split(cv, n_classes):
    """Split 16 samples; return the splits, the classes of the samples and the error."""
    y, error, splits = np.arange(16) % (n_classes or 1), None, []
    try:
        splits = held_out_splits(
            cv,
            np.zeros((16, 1)),
            y,
            classes=None if n_classes is None else np.arange(n_classes),
            random_state=0,
        )
    except ValueError as raised:
        check_error(raised, "cv|class")
        error = raised
    for found in splits:
        assert len(found.held_out) >= 2
        both = np.concatenate([found.train, found.held_out])
        assert set(both) <= {*range(16)}
        assert len(set(both)) == len(both)
        assert set(y[found.train]) == set(y)
    return splits, y, error


@cases(80)
@given(st.one_of(st.integers(-2, 20), st.floats(-1, 2)), st.sampled_from([None, 2, 3]))
def test_folds_and_shares_split_or_are_refused(cv, n_classes):
    splits, _, error = split(cv, n_classes)
    smallest_class = 16 // (n_classes or 1)
    if isinstance(cv, int):
        fine = 2 <= cv <= min(smallest_class, 8)
        assert len(splits) == (cv if fine else 0)
    else:
        n_held_out = int(np.ceil(cv * 16))
        fine = max(2, n_classes or 0) <= n_held_out <= 16 - (n_classes or 1)
        assert [len(s.held_out) for s in splits] == ([n_held_out] if fine else [])
    assert (error is None) == fine, error


@cases(120)
@given(pairs_of_indices, st.sampled_from([None, 2, 3]))
def test_pairs_split_or_are_refused(cv, n_classes):
    splits, y, error = split(cv, n_classes)
    fine = bool(cv) and all(splits_well(pair, y) for pair in cv)
    assert (error is None) == fine, error
    for (train, held_out), found in zip(cv if fine else [], splits, strict=True):
        assert set(found.train) == set(named(train))
        assert set(found.held_out) == set(named(held_out))


@cases(15)
@given(st.permutations(range(16)), st.integers(1, 13), engines)
def test_splits_by_hand(order, n_train, engine):
    X, y = table(4)
    cv = [(order[:n_train], order[n_train:])]
    model = DataDropoutClassifier(small_classifier(3, 2), cv=cv, engine=engine)
    error, _ = fit(model.set_params(random_state=0), X, y)
    if len(set(y[order[:n_train]])) == 2:
        assert error is None, error
        check_predictions(model, X, y)
    else:
        assert re.search("split 1 of cv trains on no sample of class", str(error))


# The held-out objective.


@pytest.mark.parametrize("has_classes", [True, False])
@cases(20)
@given(y=st.lists(st.sampled_from([0.0, 1.0, 2.0, 7.0]), min_size=1, max_size=20))
def test_classes_weigh_the_same_in_the_bounded_objective(has_classes, y):
    y = np.array(y)
    samples = Samples(y[:, None], y, class_codes(y) if has_classes else None)
    objective = HeldOutObjective("bounded", samples)
    groups = pd.Series(objective.weights).groupby(y if has_classes else 0 * y).sum()
    np.testing.assert_allclose(groups, 1)
    np.testing.assert_array_equal(HeldOutObjective("loss", samples).weights, 1)


# Solvers.


@cases(80)
@given(
    seeds,
    st.integers(1, 12),
    st.integers(1, 3),
    st.sampled_from([1e-20, 1.0, 1e20]),
    st.sampled_from([0.01, 0.1, 2.0]),
    st.sampled_from(
        [
            Dense(),
            Lanczos(max_iter=30, tol=1e-10),
            CG(max_iter=60, tol=1e-10),
            LiSSA(max_iter=9000, tol=1e-10),
            Arnoldi(rank=12, max_iter=24, tol=1e-10),
        ]
    ),
    st.booleans(),
)
def test_solvers_against_the_dense_solution(
    seed, size, n_rhs, scale, damping, solver, is_singular
):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(size, max(size // 2, 1) if is_singular else size))
    A = torch.tensor(scale * root @ root.T)
    rhs = torch.tensor(rng.normal(size=(size, n_rhs)))
    result = solve(solver, CurvatureOperator(A.__matmul__, size, damping), rhs)
    # Not a start that the top eigenvector has no part in.
    assume(result.top_eigenvalue >= 0.9 * float(torch.linalg.eigvalsh(A)[-1]))
    assert result.status == "solved"
    shifted = A + result.shift * torch.eye(size, dtype=A.dtype)
    expected = torch.linalg.solve(shifted, rhs)
    error = torch.linalg.norm(result.solution - expected) / torch.linalg.norm(expected)
    assert error < 1e-5
    assert result.shift == pytest.approx(damping * result.top_eigenvalue)


# Influence.


@cases(40)
@given(
    arrays(
        np.float64,
        array_shapes(min_dims=2, max_dims=2, max_side=6),
        elements=st.sampled_from([0.0, -3.5, 1e300, np.inf, -np.inf, np.nan]),
    )
)
def test_samples_that_cannot_be_scored_are_counted_and_kept(scores):
    is_fine = np.isfinite(scores).all(axis=0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = _finite(scores, torch.ones(4, len(scores)))
        # A solver that found no solution has said so itself.
        of_no_solution = _finite(scores, torch.full((4, len(scores)), torch.nan))
    np.testing.assert_array_equal(found[:, is_fine], scores[:, is_fine])
    assert np.isnan(found[:, ~is_fine]).all()
    np.testing.assert_array_equal(of_no_solution, found)
    counted = f"{np.sum(~is_fine)} of {len(is_fine)} training samples are not scored"
    assert [w.category for w in caught] == [ConvergenceWarning] * (not is_fine.all())
    assert all(str(w.message).startswith(counted) for w in caught)


@cases(60)
@given(
    seeds,
    st.integers(2, 12),
    st.integers(2, 12),
    st.integers(1, 20),
    st.sampled_from(["bounded", "loss"]),
    st.sampled_from([torch.float32, torch.float64]),
    st.booleans(),
    st.sampled_from([None, "zero", "duplicates", "huge sample", "one class"]),
)
def test_scores_depend_on_neither_order_nor_batches(
    seed, n, n_val, batch_size, objective, dtype, is_classifier, kind
):
    torch.manual_seed(seed)
    X, X_val = torch.randn(n, 3, dtype=dtype), torch.randn(n_val, 3, dtype=dtype)
    if kind == "zero":
        X.zero_()
    if kind == "duplicates":
        X[1] = X[0]
    if kind == "huge sample":
        X[0] = 1e4
    if is_classifier:
        loss, y, y_val = (
            nn.CrossEntropyLoss(),
            torch.arange(n) % 2,
            torch.arange(n_val) % 2,
        )
    else:
        loss, y, y_val = nn.MSELoss(), X[:, :2], X_val[:, :2].clone()
    if kind == "duplicates":
        y[1] = y[0]
    if kind == "one class" and is_classifier:
        y, y_val = torch.zeros_like(y), torch.zeros_like(y_val)
    net = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2)).to(dtype)
    engine = InfluenceFunctions(
        GaussNewton(n_samples=None), Lanczos(max_iter=50, tol=1e-7)
    )

    def scores(order, held_out, **options):
        return influence_scores(
            net,
            X[order],
            y[order],
            X_val[held_out],
            y_val[held_out],
            loss=loss,
            objective=objective,
            engine=engine,
            random_state=0,
            **options,
        ).influence

    order, held_out = torch.arange(n), torch.arange(n_val)
    with warnings.catch_warnings():
        # Not to full precision where rounding is all that is left.
        warnings.simplefilter("ignore", ConvergenceWarning)
        straight = scores(order, held_out)
        shuffled = scores(order.flip(0), held_out.roll(1), batch_size=batch_size)
    assert np.isfinite(straight).all()
    atol = 1e-3 * np.abs(straight).max()
    np.testing.assert_allclose(shuffled[::-1], straight, rtol=1e-3, atol=atol)
    if kind == "duplicates":
        np.testing.assert_allclose(straight[0], straight[1], rtol=1e-3, atol=atol)


# The drop rule.

influences = arrays(
    np.float64,
    array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12),
    elements=st.one_of(
        st.sampled_from([0.0, np.nan, 1e-300, -1e30, 1e30]),
        st.floats(-1e3, 1e3),
    ),
)
codes_or_none = st.one_of(st.none(), st.lists(st.integers(0, 3), min_size=12))


def judged(views, seed):
    """Return influence, chances of harm, some of them equal, and what is harmful."""
    rng = np.random.default_rng(seed)
    influence = mean_influence(views)
    chance = rng.choice(rng.random(5), size=len(influence))
    chance[np.isnan(influence)] = np.nan
    return influence, chance, np.nan_to_num(chance) > 0.5


@cases(150)
@given(
    influences,
    seeds,
    st.one_of(st.just("harmful"), st.floats(0, 1, exclude_max=True)),
    codes_or_none,
)
def test_drop_rule(views, seed, drop_fraction, codes):
    influence, chance, is_harmful = judged(views, seed)
    n, scored = len(influence), ~np.isnan(influence)
    codes = None if codes is None else np.array(codes[:n])
    keep = keep_mask(influence, chance, is_harmful, drop_fraction, codes)
    assert keep.shape == (n,)
    assert keep.dtype == bool
    assert keep[~scored].all()
    assert keep.any()
    classes = np.zeros(n) if codes is None else codes
    assert set(classes[keep]) == set(classes)
    n_dropped, n_classes = np.sum(~keep), len(set(classes))
    if drop_fraction == "harmful":
        assert is_harmful[~keep].all()
        # The last of a class, and no other.
        spared = classes[keep & is_harmful]
        assert len(set(spared)) == len(spared)
        assert all(np.sum(keep & (classes == kind)) == 1 for kind in spared)
    else:
        wanted = round(drop_fraction * scored.sum())
        assert min(wanted, scored.sum() - n_classes) <= n_dropped <= wanted
    if isinstance(drop_fraction, float) and codes is None and n_dropped:
        assert chance[~keep].min() >= np.nanmax(np.r_[-1, chance[keep]])
    # Which samples, not where they stand.
    order = np.random.default_rng(0).permutation(n)
    if len(np.unique(np.column_stack([influence, chance]), axis=0)) == n:
        parts = [part[order] for part in (influence, chance, is_harmful)]
        of_order = None if codes is None else codes[order]
        again = keep_mask(*parts, drop_fraction, of_order)
        np.testing.assert_array_equal(again, keep[order])


@cases(60)
@given(influences, seeds)
def test_order_of_dropping_is_that_of_pandas(views, seed):
    influence, chance, _ = judged(views, seed)
    frame = pd.DataFrame({"chance": chance, "influence": influence})
    expected = frame.sort_values(
        ["chance", "influence"], ascending=[False, True], kind="stable"
    )
    order = most_harmful_first(influence, chance)
    np.testing.assert_array_equal(order, expected.index)


@cases(60)
@given(st.integers(1, 20), st.integers(0, 60), seeds)
def test_rows_are_as_many_as_asked_for(n_kept, n_more, seed):
    rng = np.random.default_rng(seed)
    kept = np.sort(rng.choice(100, size=n_kept, replace=False))
    rows = as_many_rows(kept, n_kept + n_more, rng)
    counts = pd.Series(rows).value_counts().reindex(kept, fill_value=0)
    assert counts.sum() == len(rows) == n_kept + n_more
    assert counts.max() - counts.min() <= 1
    assert counts.min() >= 1


@cases(40)
@given(
    arrays(
        np.float64,
        st.tuples(st.integers(1, 6), st.integers(1, 40)),
        elements=st.one_of(st.sampled_from([0.0, np.nan]), st.floats(-1e3, 1e3)),
    ),
    st.integers(-20, 20),
    st.integers(1, 5),
    seeds,
    st.booleans(),
)
def test_units_of_the_objective_do_not_matter(views, exponent, n_splits, seed, classes):
    assume(not np.any((abs(views) < 1e-290) & (views != 0)))
    rng, n = np.random.default_rng(seed), views.shape[1]
    n_splits = min(n_splits, len(views))
    held_out = rng.integers(n_splits, size=n) == np.arange(n_splits)[:, None]
    log_proba = np.log(rng.dirichlet(np.ones(3), size=n))
    predictions = [
        Predictions(number, rows, log_proba[rows])
        for number, rows in enumerate(map(np.flatnonzero, held_out))
    ]

    def chance(views):
        return chance_of_harm(
            Evidence(
                views,
                np.arange(len(views)) % n_splits,
                held_out,
                np.tile(rng.permutation(np.arange(n) + 0.5), (n_splits, 1)),
                predictions if classes else [],
                rng.integers(3, size=n) if classes else None,
            )
        )

    state = rng.bit_generator.state
    found = chance(views)
    rng.bit_generator.state = state
    # Powers of two change no digit.
    np.testing.assert_array_equal(chance(views * 2.0**exponent), found)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(views).all(axis=0))
    scored = found[~np.isnan(found)]
    assert ((scored >= 0) & (scored <= 1)).all()


@cases(60)
@given(influences)
def test_means_and_their_errors(views):
    frame = pd.DataFrame(views)
    largest = np.nanmax(abs(views), initial=0)
    np.testing.assert_allclose(
        mean_influence(views), frame.mean(), rtol=1e-9, atol=1e-9 * largest
    )
    np.testing.assert_allclose(
        standard_error(views), frame.sem(), rtol=1e-6, atol=1e-6 * largest
    )


@cases(60)
@given(influences, seeds)
def test_candidates_drop_the_share_they_say(views, seed):
    influence, chance, is_harmful = judged(views, seed)
    keep = keep_mask(influence, chance, is_harmful, "harmful")
    tried = candidate_fractions(keep, influence)
    n_scored = np.sum(~np.isnan(influence))
    assert tried[0] == 0
    assert tried[-1] * max(n_scored, 1) == pytest.approx(np.sum(~keep))
    for fraction in tried:
        fewer = drop_fewer(keep, influence, chance, fraction)
        assert np.sum(~fewer) == round(fraction * n_scored)
        assert not (~fewer & keep).any()
        # The most harmful of them.
        rest = chance[~keep & fewer]
        assert np.all(chance[~fewer, None] >= rest)


# Contaminated data sets, and metrics.


@cases(60)
@given(
    st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, max_size=30),
    st.one_of(st.floats(0, 1), st.sampled_from([-0.1, 1.1, np.nan])),
    st.sampled_from(["symmetric", "pair", "other"]),
    seeds,
)
def test_flipped_labels(y, rate, kind, seed):
    if not 0 <= rate <= 1 or kind == "other" or len(set(y)) < 2:
        message = "rate must lie|kind must be|needs at least two classes"
        with pytest.raises(ValueError, match=message):
            flip_labels(y, rate, kind=kind, random_state=seed)
    else:
        noisy, touched = flip_labels(y, rate, kind=kind, random_state=seed)
        np.testing.assert_array_equal(noisy != np.array(y), touched)
        assert touched.sum() == round(rate * len(y))
        assert set(noisy) <= set(y)


@cases(40)
@given(
    arrays(
        st.sampled_from([np.float32, np.float64]),
        array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=6),
        elements=st.floats(0, 1, width=32),
    ),
    st.floats(0, 1),
    st.sampled_from(["gamma", "shift", "invert", "blur"]),
    seeds,
)
def test_spoilt_targets(y, rate, kind, seed):
    before = y.copy()
    if y.ndim < 3:
        with pytest.raises(ValueError, match="expects images"):
            corrupt_targets(y, rate, kind=kind, random_state=seed)
    else:
        spoilt, touched = corrupt_targets(y, rate, kind=kind, random_state=seed)
        np.testing.assert_array_equal(spoilt[~touched], y[~touched])
        assert spoilt.dtype == y.dtype
        assert spoilt.shape == y.shape
        assert touched.sum() == round(rate * len(y))
        assert (spoilt >= 0).all()
        assert (spoilt <= 1.000001).all()
    np.testing.assert_array_equal(y, before)


targets_and_predictions = array_shapes(
    min_dims=1, max_dims=4, min_side=2, max_side=5
).flatmap(
    lambda shape: st.tuples(
        *[arrays(np.float64, shape, elements=st.floats(-1e3, 1e3, width=32))] * 2
    )
)


@cases(60)
@given(targets_and_predictions)
def test_mean_squared_error_against_numpy(pair):
    y, predicted = pair
    expected = np.square(y - predicted).mean()
    assert mean_squared_error(y, predicted) == pytest.approx(expected)


@cases(60)
@given(targets_and_predictions)
def test_r2_against_scikit_learn(pair):
    y, predicted = (values.reshape(len(values), -1) for values in pair)
    assume(np.var(y, axis=0).min() > 1e-6)
    expected = sklearn.metrics.r2_score(y, predicted, multioutput="variance_weighted")
    assert r2_score(*pair) == pytest.approx(expected, rel=1e-6, abs=1e-6)
