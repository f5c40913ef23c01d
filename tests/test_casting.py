"""Inputs reach the net: parts of any structure, in dtypes that it takes."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import skorch
import torch
from PIL import Image
from sklearn.model_selection import cross_val_score
from skorch import NeuralNetClassifier
from skorch.helper import SliceDict
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from sk_datadrop import (
    DataDropoutClassifier,
    DataDropoutSampler,
    DataDropoutTransformer,
    DatasetRows,
    influence_html,
    influence_report,
    influence_scores,
)

N = 40
rng = np.random.default_rng(0)
IDS = rng.integers(0, 9, (N, 3))
VALUES = rng.normal(size=(N, 2))
Y = (VALUES[:, 0] > 0).astype(int)


class ByName(nn.Module):
    def __init__(self, dtype=None):
        super().__init__()
        self.ids, self.out = nn.Embedding(9, 3), nn.Linear(5, 2)
        self.to(dtype)

    def forward(self, ids, values):
        return self.out(torch.cat([self.ids(ids).mean(1), values], 1)).float()


class ByPosition(ByName):
    def forward(self, X):
        assert isinstance(X, list)
        return super().forward(*X)


class OnlyIds(nn.Module):
    def __init__(self, n_ids=9, first=0):
        super().__init__()
        self.first = first
        self.ids, self.out = nn.Embedding(n_ids, 3), nn.Linear(3, 2)

    def forward(self, X):
        return self.out(self.ids(X - self.first).mean(1))


class Table(nn.Sequential):
    def __init__(self, n_inputs=2, dtype=None):
        super().__init__(nn.Linear(n_inputs, 4), nn.Tanh(), nn.Linear(4, 2))
        self.to(dtype)

    def forward(self, X):
        return super().forward(X).float()


class Conv(nn.Sequential):
    def __init__(self, n_channels):
        super().__init__(nn.Conv2d(n_channels, 2, 3), nn.Flatten(), nn.LazyLinear(2))


class Items(Dataset):
    """A data set of what a function makes of a number."""

    def __init__(self, make):
        self.make = make

    def __len__(self):
        return N

    def __getitem__(self, number):
        return self.make(number)


class HuggingFace:
    """Not a data set of torch's."""

    def __init__(self, **columns):
        self.columns = columns

    def __len__(self):
        return N

    def __getitem__(self, number):
        return {name: column[number] for name, column in self.columns.items()}


def net_of(module, **options):
    options = {"module": module, "lr": 0.1, "max_epochs": 2, "verbose": 0} | options
    return NeuralNetClassifier(criterion=nn.CrossEntropyLoss, **options)


def model_of(module, **options):
    net = net_of(module, **options)
    return DataDropoutClassifier(net, drop_fraction=0.1, cv=2, random_state=0)


PAIRS = {
    "dict": (ByName, {"ids": IDS, "values": VALUES}, Y),
    "sliceable dict": (ByName, SliceDict(ids=IDS, values=VALUES), Y),
    "frames": (ByName, {"ids": pd.DataFrame(IDS), "values": VALUES.tolist()}, Y),
    "list": (ByPosition, [IDS, VALUES], Y),
    "tuple": (ByPosition, (torch.tensor(IDS), torch.tensor(VALUES)), Y),
    "rows": (ByPosition, DatasetRows((IDS, VALUES)), Y),
    "pairs": (ByPosition, Items(lambda i: ((IDS[i], VALUES[i]), Y[i])), None),
    "items": (
        ByName,
        Items(lambda i: ({"ids": IDS[i], "values": VALUES[i]}, Y[i])),
        None,
    ),
    "hugging face": (
        ByName,
        HuggingFace(ids=IDS.tolist(), values=VALUES, label=Y.tolist()),
        None,
    ),
    "list of dicts": (
        ByName,
        [{"ids": IDS[i], "values": VALUES[i], "labels": Y[i]} for i in range(N)],
        None,
    ),
}


@pytest.fixture(scope="module")
def reference():
    return model_of(ByName).fit(PAIRS["dict"][1], Y)


@pytest.mark.parametrize("kind", PAIRS)
def test_inputs_of_several_parts_are_the_same_in_any_form(kind, reference):
    module, X, y = PAIRS[kind]
    model = model_of(module).fit(X, y)
    np.testing.assert_array_equal(model.influence_, reference.influence_)
    np.testing.assert_array_equal(
        model.predict_proba(X), reference.predict_proba(PAIRS["dict"][1])
    )
    assert model.score(X, y) == np.mean(model.predict(X) == Y)
    shapes = {"ids": (3,), "values": (2,)}
    is_named = module is ByName
    assert model.input_shape_ == (shapes if is_named else list(shapes.values()))
    assert not hasattr(model, "n_features_in_")


@pytest.mark.parametrize("kind", ["dict", "list", "hugging face"])
def test_reports_and_scores_take_several_parts(kind, reference):
    module, X, y = PAIRS[kind]
    model = model_of(module).fit(X, y)
    report = influence_report(model, X, y)
    assert report["target"].tolist() == Y.tolist()
    assert "x0" in influence_html(model, X, y)
    scores = influence_scores(model.estimator_, X, y, X, y)
    assert np.isfinite(scores.influence).all()


def test_held_out_parts_given(reference):
    _, X, y = PAIRS["dict"]
    fit = {"X_val": X, "y_val": y}
    in_memory = model_of(ByName).fit(X, y, **fit)
    lazy = model_of(ByName).fit(PAIRS["items"][1], X_val=PAIRS["items"][1])
    np.testing.assert_array_equal(in_memory.influence_, lazy.influence_)


@pytest.mark.parametrize(
    ("X", "kind"), [(PAIRS["dict"][1], dict), (PAIRS["sliceable dict"][1], SliceDict)]
)
def test_samplers_return_parts_of_the_type_given(X, kind):
    sampler = DataDropoutSampler(
        net_of(ByName), drop_fraction=0.1, cv=2, random_state=0
    )
    kept, y = sampler.fit_resample(X, Y)
    assert type(kept) is kind
    np.testing.assert_array_equal(kept["ids"], IDS[sampler.sample_mask_])
    assert len(kept["values"]) == len(y) == N - 4
    with pytest.raises(ValueError, match="only tables have names"):
        sampler.get_feature_names_out()
    transformer = DataDropoutTransformer(net_of(ByName), cv=2, random_state=0)
    assert transformer.fit(X, Y).transform(X) is X


@pytest.mark.parametrize("kind", ["sliceable dict", "rows"])
def test_cross_validation_cuts_parts(kind):
    module, X, y = PAIRS[kind]
    assert np.isfinite(cross_val_score(model_of(module), X, y, cv=2)).all()


def test_parts_of_other_names_or_shapes_are_not_predicted(reference):
    with pytest.raises(ValueError, match="holds 'ids', but .* on 'ids', 'values'"):
        reference.predict({"ids": IDS})
    message = r"shape {'ids': \(3,\), 'values': \(1,\)}, but"
    with pytest.raises(ValueError, match=message):
        reference.predict({"ids": IDS, "values": VALUES[:, :1]})


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.uint64])
@pytest.mark.parametrize(
    "give", [np.asarray, torch.tensor, pd.DataFrame, np.ndarray.tolist]
)
def test_integers_reach_a_net_that_takes_them(dtype, give):
    if give is torch.tensor and dtype == np.uint64:
        dtype = np.int16
    X = give(IDS.astype(dtype))
    model = model_of(OnlyIds).fit(X, Y)
    assert model.casting_ == ("float32", True, False)
    assert model.predict(X).shape == (N,)


def test_large_ids_are_not_rounded():
    first = 2**24 + 1
    large = model_of(OnlyIds, module__first=first).fit(IDS + first, Y)
    small = model_of(OnlyIds).fit(IDS, Y)
    np.testing.assert_array_equal(large.influence_, small.influence_)


def test_integers_of_a_data_set_reach_a_net_that_takes_them():
    lazy = model_of(OnlyIds).fit(TensorDataset(torch.tensor(IDS), torch.tensor(Y)))
    model = model_of(OnlyIds).fit(IDS, Y)
    np.testing.assert_array_equal(lazy.influence_, model.influence_)
    np.testing.assert_array_equal(lazy.predict(IDS), model.predict(IDS))


def test_integers_become_floating_for_other_nets():
    X = (9 * VALUES).astype(int)
    model = model_of(Table).fit(X, Y)
    assert model.casting_ == ("float32", False, False)
    floats = model_of(Table).fit(X.astype(np.float32), Y)
    np.testing.assert_array_equal(model.influence_, floats.influence_)


def test_integers_that_are_rounded_are_warned_of():
    frame = pd.DataFrame({"id": 2**24 + 1 + np.arange(N), "value": VALUES[:, 0] * 1e7})
    with pytest.warns(UserWarning, match=r"above 2\*\*24 in columns id, which float32"):
        model_of(Table).fit(frame, Y)
    with pytest.warns(UserWarning, match=r"above 2\*\*24, which float32 rounds"):
        model_of(Table).fit((VALUES * 1e9).astype(int), Y)


def test_what_is_wrong_with_ids_is_said():
    with pytest.raises(ValueError, match="index out of range"):
        model_of(OnlyIds, module__n_ids=2).fit(IDS, Y)


@pytest.mark.parametrize("give", [np.asarray, DatasetRows], ids=["array", "data set"])
def test_nets_in_double_precision(give):
    X = VALUES
    if give is DatasetRows:
        X = DatasetRows(TensorDataset(torch.tensor(VALUES), torch.tensor(Y)))
    double = model_of(Table, module__dtype=torch.float64).fit(X, Y)
    assert double.casting_[0] == "float64"
    single = model_of(Table).fit(X, Y)
    np.testing.assert_allclose(double.influence_, single.influence_, rtol=0.01)
    assert double.predict(X).shape == (N,)


def test_double_precision_by_default():
    torch.set_default_dtype(torch.float64)
    try:
        model = model_of(Table).fit(VALUES, Y)
    finally:
        torch.set_default_dtype(torch.float32)
    assert model.casting_[0] == "float64"


class Casts(Table):
    def forward(self, X):
        return super().forward(X.to(torch.bfloat16))


@pytest.mark.parametrize("module", [Table, Casts])
def test_nets_in_bfloat16_are_scored_in_full_precision(module):
    low = model_of(module, module__dtype=torch.bfloat16).fit(VALUES, Y)
    full = model_of(Table).fit(VALUES, Y)
    assert low.estimator_.module_[0].weight.dtype == torch.bfloat16
    np.testing.assert_allclose(
        low.influence_, full.influence_, atol=0.1 * np.abs(full.influence_).max()
    )
    assert low.predict(VALUES).shape == (N,)


def test_outputs_in_bfloat16_are_refused():
    options = {"module__in_features": 2, "module__out_features": 2}
    with pytest.raises(ValueError, match="outputs are bfloat16"):
        model_of(nn.Linear, module__dtype=torch.bfloat16, **options).fit(VALUES, Y)


ROWS = [IDS[i][: i % 3 + 1] for i in range(N)]


def padded(batch):
    rows, y = zip(*batch, strict=True)
    rows = [torch.as_tensor(row) for row in rows]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.as_tensor(y)


class Masked(OnlyIds):
    def forward(self, X):
        known = (X > 0).float()[..., None]
        return self.out((self.ids(X) * known).sum(1))


WITH_PADDING = {f"iterator_{p}__collate_fn": padded for p in ("train", "valid")}


def ragged_array():
    rows = np.empty(N, dtype=object)
    rows[:] = ROWS
    return rows


@pytest.mark.parametrize(
    "X",
    [
        ROWS,
        [row.tolist() for row in ROWS],
        ragged_array(),
        pd.Series(ROWS),
        Items(lambda i: (ROWS[i], Y[i])),
    ],
    ids=["list", "lists", "array", "series", "data set"],
)
def test_rows_of_different_lengths(X):
    y = None if isinstance(X, Items) else Y
    model = model_of(Masked, **WITH_PADDING).fit(X, y)
    assert model.input_shape_ is None
    assert model.score(X, y) == np.mean(model.predict(X) == Y)
    scores = influence_scores(model.estimator_, X, y, X, y).influence
    lazy = model_of(Masked, **WITH_PADDING).fit(Items(lambda i: (ROWS[i], Y[i])))
    np.testing.assert_array_equal(lazy.influence_, model.influence_)
    assert np.isfinite(scores).all()
    with pytest.raises(ValueError, match="differ in shape.*collate_fn"):
        model_of(Masked).fit(X, y)


def test_padding_that_is_not_masked_is_warned_of():
    model = model_of(OnlyIds, **WITH_PADDING)
    with pytest.warns(UserWarning, match="padding that is not masked"):
        model.fit(ROWS, Y)


class Tokenized(skorch.dataset.Dataset):
    def transform(self, X, y):
        X, y = super().transform(X, y)
        return torch.tensor([int(letter) for letter in X]), y


TEXTS = ["".join(map(str, row)) for row in IDS]


def test_texts_go_through_the_data_set_class_of_a_net():
    model = model_of(OnlyIds, dataset=Tokenized).fit(TEXTS, Y)
    expected = model_of(OnlyIds).fit(IDS, Y)
    np.testing.assert_array_equal(model.influence_, expected.influence_)
    np.testing.assert_array_equal(model.predict(TEXTS), expected.predict(IDS))


class Scaled(skorch.dataset.Dataset):
    def transform(self, X, y):
        X, y = super().transform(X, y)
        return (X - 1000) / 50, y


def test_held_out_samples_go_through_the_data_set_class_of_a_net():
    raw = np.round(1000 + 50 * VALUES).astype(np.float32)
    model = model_of(Table, dataset=Scaled).fit(raw, Y)
    expected = model_of(Table).fit((raw - 1000) / 50, Y)
    for one, other in zip(
        model.round_one_estimators_, expected.round_one_estimators_, strict=True
    ):
        assert one.history[:, "valid_loss"] == other.history[:, "valid_loss"]
    np.testing.assert_array_equal(model.influence_, expected.influence_)


class ChannelsFirst(skorch.dataset.Dataset):
    def transform(self, X, y):
        X, y = super().transform(X, y)
        return np.moveaxis(X, -1, 0), y


def test_the_probe_goes_through_the_data_set_class_of_a_net():
    X = rng.normal(size=(N, 5, 5, 3)).astype(np.float32)
    options = {"dataset": ChannelsFirst, "module__n_channels": 3}
    assert model_of(Conv, **options).fit(X, Y).predict(X).shape == (N,)


class NamedParts(skorch.dataset.Dataset):
    def transform(self, X, y):
        X, y = super().transform(X, y)
        return {"ids": X["ids"], "values": X["values"] * 2}, y


def test_parts_go_through_the_data_set_class_of_a_net():
    _, X, y = PAIRS["dict"]
    model = model_of(ByName, dataset=NamedParts).fit(X, y)
    doubled = model_of(ByName).fit({"ids": IDS, "values": VALUES * 2}, y)
    np.testing.assert_array_equal(model.influence_, doubled.influence_)
    np.testing.assert_array_equal(
        model.predict(X), doubled.predict({"ids": IDS, "values": VALUES * 2})
    )


class Windows(skorch.dataset.Dataset):
    def __len__(self):
        return super().__len__() - 3


TEXT_FRAME = pd.DataFrame({"size": VALUES[:, 0], "colour": ["red", "blue"] * (N // 2)})
NAN_FRAME = pd.DataFrame(VALUES, columns=["a", "b"]).mask(VALUES > 1)


@pytest.mark.parametrize(
    ("X", "y", "options", "message"),
    [
        (
            DataLoader(TensorDataset(torch.zeros(N, 2))),
            None,
            {},
            "X is a DataLoader.*loader.dataset.*batch_size",
        ),
        ((row for row in VALUES), Y, {}, "X is a generator.*Pass an array"),
        (TEXT_FRAME, Y, {}, "hold no numbers: colour. .*OrdinalEncoder"),
        (TEXT_FRAME.astype({"colour": "category"}), Y, {}, "hold no numbers: colour"),
        (np.array([["a", "b"]] * N), Y, {}, "X holds text.*OrdinalEncoder"),
        (pd.Categorical(["a", "b"] * (N // 2)), Y, {}, "X holds text.*OrdinalEncoder"),
        (["some words"] * N, Y, {}, "X holds text.*tokenizer"),
        (
            HuggingFace(text=TEXTS, label=Y),
            None,
            {},
            r"X\['text'\] must be .*; got text, .*collate_fn",
        ),
        (
            HuggingFace(X=IDS, target=Y),
            None,
            {},
            "dicts of 'X', 'target', with no targets under 'labels'.*Pass y",
        ),
        (
            NAN_FRAME,
            Y,
            {},
            r"X contains NaN: in \d+ of 40 .* \(columns a, b\)\. .*SimpleImputer",
        ),
        (VALUES * 1e300, Y, {}, "too large for float32. Scale X"),
        (scipy.sparse.csr_array(VALUES), Y, {}, "Sparse data was passed"),
        (torch.tensor(VALUES).to_sparse(), Y, {}, "Sparse data was passed.*to_dense"),
        (
            {"ids": scipy.sparse.csr_array(VALUES)},
            Y,
            {},
            r"X\['ids'\] must be dense.*toarray",
        ),
        (
            Items(lambda i: (torch.tensor(VALUES[i]).to_sparse(), Y[i])),
            None,
            {},
            "must be dense.*to_dense",
        ),
        (
            {"ids": IDS, "values": VALUES[1:]},
            Y,
            {},
            "one entry per sample each; got arrays of 39, 40 entries",
        ),
        ({"ids": IDS, "values": None}, Y, {}, r"X\['values'\] must be an array"),
        (
            {"other": VALUES},
            Y,
            {},
            "unexpected keyword.*got 'other' as keyword arguments: see its forward",
        ),
        (
            [IDS.tolist(), VALUES.tolist()],
            Y,
            {},
            "rows of X differ in shape.*several inputs as a dict or list of arrays",
        ),
        (
            Items(lambda i: (np.zeros((1, 8, 8 + i % 2)), Y[i])),
            None,
            {},
            "differ in shape.*images to one size.*Resize",
        ),
        (VALUES, Y, {"dataset": Windows}, "Windows of the net makes 37 items of 40"),
        (
            VALUES,
            Y,
            {"dataset": TensorDataset(torch.zeros(N, 2))},
            "net holds a data set, TensorDataset.*Pass it as X",
        ),
        (
            VALUES,
            Y,
            {"iterator_valid__collate_fn": len},
            "collate_fn of the net failed on the first samples, with TypeError",
        ),
    ],
)
def test_unfit_inputs_are_refused_with_advice(X, y, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        model_of(Table, **options).fit(X, y)


def test_sizes_that_differ_late_are_explained():
    # Not among the few that are looked at.
    images = Items(lambda i: (np.zeros((1, 6, 6 + (i == 2)), "f4"), Y[i]))
    model = model_of(Conv, module__n_channels=1)
    with pytest.raises(ValueError, match=r"round 1.*differ in shape.*Resize"):
        model.fit(images)


@pytest.mark.parametrize(
    ("shape", "n_channels", "advice"),
    [
        ((6, 6), 1, r"no axis of channels.*X\[:, None\]"),
        ((6, 6), 2, r"no axis of channels.*X\[:, None\]"),
        ((6, 6, 3), 3, r"channels of the samples are the last.*np\.moveaxis"),
        # Kernels that the net does not expect either.
        ((6, 6, 1), 3, r"channels of the samples are the last.*np\.moveaxis"),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_layouts_of_images_are_explained(shape, n_channels, advice, dtype):
    X = rng.integers(0, 255, (N, *shape)).astype(dtype)
    with pytest.raises(ValueError, match=advice):
        model_of(Conv, module__n_channels=n_channels).fit(X, Y)


def test_a_list_of_images_is_explained():
    images = [Image.fromarray(np.zeros((6, 6), np.uint8))] * N
    model = model_of(Conv, module__n_channels=1)
    with pytest.raises(ValueError, match=r"np\.stack\(X\)\[:, None\] of a list"):
        model.fit(images, Y)
    assert np.stack(images)[:, None].shape == (N, 1, 6, 6)


def test_truth_values_are_numbers_unless_they_are_a_part():
    assert model_of(Table).fit(VALUES > 0, Y).casting_[1] is False

    class WithMask(Table):
        def forward(self, X, mask):
            assert mask.dtype == torch.bool
            return super().forward(X.masked_fill(mask, 0))

    model = model_of(WithMask).fit({"X": VALUES, "mask": VALUES < 0}, Y)
    assert model.casting_[1]
