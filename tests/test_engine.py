"""Views: splits, checkpoints and held-out groups."""

import numpy as np
import pytest

from sk_datadrop import DataDropoutClassifier, Views
from sk_datadrop._views import View


def fit(classifier, blobs, **parameters):
    return DataDropoutClassifier(classifier, random_state=0, **parameters).fit(*blobs)


def test_default_is_one_view_per_round(classifier, blobs):
    model = fit(classifier, blobs, cv=3)
    assert [view.split for view in model.views_] == [0, 1, 2]
    assert {view.group for view in model.views_} == {0}
    assert model.influence_per_view_.shape == (3, 90)
    assert not np.isnan(model.influence_per_view_).any()


def test_default_of_a_single_round_is_eight_groups(classifier, blobs):
    model = fit(classifier, blobs, cv=0.3)
    assert [view.group for view in model.views_] == list(range(8))
    held_out = np.isnan(model.influence_per_view_).any(0)
    assert held_out.sum() == 27
    assert np.all(np.isnan(model.influence_per_view_[:, held_out]).sum(0) == 1)


def test_checkpoints_times_groups(classifier, blobs):
    views = Views(n_checkpoints=3, n_groups=2)
    model = fit(classifier, blobs, cv=2, views=views)
    epochs = [sorted({v.epoch for v in model.views_ if v.split == r}) for r in (0, 1)]
    expected = [View(r, e, g) for r in (0, 1) for e in epochs[r] for g in (0, 1)]
    assert model.views_ == expected
    assert all(2 <= len(e) <= 3 for e in epochs)
    assert len(model.solver_results_) == sum(map(len, epochs))


def test_groups_never_outnumber_the_held_out_rows():
    assert Views().groups(n_splits=1, n_held_out=5) == 5
    assert Views(n_groups=4).groups(n_splits=5, n_held_out=100) == 4


@pytest.mark.parametrize("name", ["n_checkpoints", "n_groups"])
@pytest.mark.parametrize("value", [0, -1, 1.5])
def test_parameters_out_of_range(classifier, blobs, name, value):
    with pytest.raises(ValueError, match=f"{name} must be a positive integer"):
        fit(classifier, blobs, views=Views(**{name: value}))
