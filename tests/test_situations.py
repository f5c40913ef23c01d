"""Every row of the table in docs/compatibility.md, run."""

import copy

import numpy as np
import pytest
import situations
from situations import SITUATIONS
from skorch import NeuralNet

from sk_datadrop import DatasetRows

NAMES = [
    ", ".join(part for part in row[:5] if part).replace("[", "(") for row in SITUATIONS
]


def first_samples(X):
    if hasattr(X, "iloc"):
        return X.iloc[:3]
    if isinstance(X, dict | tuple):
        return DatasetRows(X)[:3]
    return DatasetRows(X)[:3] if not isinstance(X, list | np.ndarray) else X[:3]


@pytest.mark.filterwarnings("ignore::sk_datadrop.DataDropoutWarning")
@pytest.mark.parametrize("row", SITUATIONS, ids=NAMES)
def test_row(row, monkeypatch):
    model, (X, y) = row.model(), row.data()
    if row.refusal:
        monkeypatch.setattr(NeuralNet, "fit", trained)
        with pytest.raises((ValueError, TypeError), match=row.refusal):
            model.fit(X, y)
        return
    before = copy.deepcopy(y)
    model.fit(X, y)
    assert np.isfinite(model.influence_).all()
    assert model.influence_.any()
    predicted = model.predict(first_samples(X))
    assert len(predicted) == 3
    expected = () if y is None else np.shape(y)[1:]
    if row.criterion != "quantiles, yours":
        assert predicted.shape[1:] == expected
        assert model.score(X, y) <= 1
    if y is not None:
        np.testing.assert_array_equal(y, before)


def trained(*args, **options):
    raise AssertionError("trained before it was refused")


def test_the_page_has_all_of_them():
    page = situations.PAGE.read_text()
    _, rest = page.split(situations.BEGIN)
    table, _ = rest.split(situations.END)
    assert table.strip() == situations.as_markdown().strip()
