"""Data sets and memory maps give what arrays give, and are never read as a whole."""

import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from joblib import hash as joblib_hash
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, KFold
from skorch import NeuralNetClassifier, NeuralNetRegressor
from skorch.callbacks import EarlyStopping
from skorch.dataset import Dataset as ArrayDataset
from skorch.dataset import ValidSplit
from skorch.helper import SliceDataset, predefined_split
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from sk_datadrop import (
    DataDropoutClassifier,
    DataDropoutRegressor,
    DataDropoutSampler,
    DataDropoutTransformer,
    DatasetRows,
    InfluenceDisplay,
    drop_curve,
    influence_report,
    influence_scores,
)
from sk_datadrop._lazy import (
    MemoryMap,
    as_lazy,
    chunks,
    for_training,
    with_own_targets,
)
from sk_datadrop.nets import DnCNN, SmallCNN

NAMES = np.array(list("abcdefghij"))


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    return (data.images[:200, None] / 16).astype(np.float32), data.target[:200]


@pytest.fixture(scope="module")
def pairs(digits):
    y = digits[0][:80]
    rng = np.random.default_rng(0)
    return y + 0.1 * rng.standard_normal(y.shape, dtype=np.float32), y


def classifier(**params):
    net = NeuralNetClassifier(
        SmallCNN,
        module__channels=(4,),
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=0.01,
        max_epochs=2,
        verbose=0,
    )
    params = {"cv": 2, "drop_fraction": 0.1, "random_state": 0} | params
    return DataDropoutClassifier(net, **params)


def denoiser(**params):
    net = NeuralNetRegressor(
        DnCNN, module__depth=2, module__width=4, lr=0.1, max_epochs=1, verbose=0
    )
    params = {"cv": 2, "drop_fraction": 0.1, "random_state": 0} | params
    return DataDropoutRegressor(net, **params)


def memory_map(array, path):
    np.save(path, array)
    return np.load(path, mmap_mode="r")


class Items(Dataset):
    """Data set whose items are what a function returns for their numbers."""

    def __init__(self, n_samples, item):
        self.n_samples = n_samples
        self.item = item

    def __len__(self):
        return self.n_samples

    def __getitem__(self, number):
        return self.item(number)


CLASSIFICATION = {
    "data set": lambda X, y, path: (TensorDataset(*map(torch.tensor, (X, y))),),
    "data set and y": lambda X, y, path: (
        TensorDataset(torch.tensor(X), torch.zeros(len(X))),
        y,
    ),
    "x alone and y": lambda X, y, path: (Items(len(X), lambda i: X[i]), y),
    "x in tuples of one and y": lambda X, y, path: (TensorDataset(torch.tensor(X)), y),
    "float64": lambda X, y, path: (
        Items(len(X), lambda i: (X[i].astype(np.float64), y[i])),
    ),
    "SliceDataset": lambda X, y, path: (
        SliceDataset(Items(len(X), lambda i: (X[i], y[i]))),
        y,
    ),
    "two SliceDatasets": lambda X, y, path: tuple(
        SliceDataset(Items(len(X), lambda i: (X[i], y[i])), idx) for idx in (0, 1)
    ),
    "memory map": lambda X, y, path: (memory_map(X, path / "X.npy"), y),
    "part of a memory map": lambda X, y, path: (
        memory_map(np.concatenate([X[:3], X]), path / "X.npy")[3:],
        y,
    ),
    "two memory maps": lambda X, y, path: (
        memory_map(X, path / "X.npy"),
        memory_map(y, path / "y.npy"),
    ),
    "DatasetRows": lambda X, y, path: (
        DatasetRows(Subset(TensorDataset(*map(torch.tensor, (X, y))), range(len(X)))),
    ),
}


@pytest.mark.parametrize("kind", CLASSIFICATION)
def test_classifier_sees_what_it_sees_of_arrays(kind, digits, tmp_path):
    X, y = digits
    expected = classifier().fit(X, y)
    given = CLASSIFICATION[kind](X, y, tmp_path)
    model = classifier().fit(*given)
    np.testing.assert_array_equal(model.influence_, expected.influence_)
    np.testing.assert_array_equal(
        model.predict_proba(given[0]), expected.predict_proba(X)
    )
    assert (model.n_features_in_, model.input_shape_) == (1, (1, 8, 8))


REGRESSION = {
    "data set": lambda X, y, path: (TensorDataset(*map(torch.tensor, (X, y))),),
    "memory map and y": lambda X, y, path: (memory_map(X, path / "X.npy"), y),
    "two memory maps": lambda X, y, path: (
        memory_map(X, path / "X.npy"),
        memory_map(y, path / "y.npy"),
    ),
    "two SliceDatasets": lambda X, y, path: tuple(
        SliceDataset(Items(len(X), lambda i: (X[i], y[i])), idx) for idx in (0, 1)
    ),
}


@pytest.mark.parametrize("kind", REGRESSION)
def test_regressor_sees_what_it_sees_of_arrays(kind, pairs, tmp_path):
    X, y = pairs
    expected = denoiser().fit(X, y)
    given = REGRESSION[kind](X, y, tmp_path)
    model = denoiser().fit(*given)
    np.testing.assert_array_equal(model.influence_, expected.influence_)
    assert model.score(X, DatasetRows(given[0]).with_targets(y).targets) == (
        expected.score(X, y)
    )


def test_candidates_of_auto_read_data_sets(pairs, tmp_path):
    X, y = pairs
    y = np.where(np.arange(len(y))[:, None, None, None] < 16, 1 - y, y)
    expected = denoiser(drop_fraction="auto")
    expected.set_params(estimator__lr=0.5, estimator__max_epochs=10).fit(X, y)
    assert len(expected.cv_results_["drop_fraction"]) == 3
    model = clone(expected).fit(TensorDataset(*map(torch.tensor, (X, y))))
    np.testing.assert_array_equal(
        model.cv_results_["objective"], expected.cv_results_["objective"]
    )


def test_samples_held_out_by_the_user(digits):
    X, y = digits
    expected = classifier().fit(X[50:], y[50:], X_val=X[:50], y_val=y[:50])
    data = TensorDataset(*map(torch.tensor, (X, y)))
    samples = DatasetRows(data)
    model = classifier().fit(samples[50:], X_val=samples[:50])
    np.testing.assert_array_equal(model.influence_, expected.influence_)


def test_labels_of_any_kind(digits):
    X, y = digits
    expected = classifier().fit(X, NAMES[y])
    model = classifier().fit(Items(len(X), lambda i: (X[i], NAMES[y[i]])))
    assert model.classes_.tolist() == NAMES.tolist()
    np.testing.assert_array_equal(model.influence_, expected.influence_)
    assert model.predict(X).tolist() == expected.predict(X).tolist()


def test_targets_are_those_of_the_items():
    data = Items(6, lambda i: (torch.zeros(2), i % 2))
    data.targets = [0, 1, 0, 1, 1, 1]
    assert DatasetRows(data).targets.tolist() == [0, 1, 0, 1, 0, 1]


def test_lists_of_targets_are_used_where_they_are_the_same():
    data = TensorDataset(torch.zeros(4, 2), torch.arange(4))
    part = Subset(Subset(data, [3, 1, 0]), [2, 0])
    assert DatasetRows(part)[::-1].targets.tolist() == [3, 0]


def test_targets_of_a_data_set_are_used_unless_others_are_given(digits):
    X, y = digits
    data = TensorDataset(*map(torch.tensor, digits))
    samples, targets = with_own_targets(data, None)
    np.testing.assert_array_equal(samples[3][0], X[3])
    np.testing.assert_array_equal(targets, y)
    assert with_own_targets(data, y[::-1])[1].tolist() == y[::-1].tolist()
    inputs, targets = with_own_targets(X, y)
    assert inputs is X
    assert targets is y


def test_image_targets_in_another_order(pairs):
    X, y = pairs
    order = np.random.default_rng(0).permutation(len(X))
    samples = DatasetRows(TensorDataset(*map(torch.tensor, (X, y))))
    expected = denoiser().fit(X, y[order])
    model = denoiser().fit(samples, samples.targets[order])
    np.testing.assert_array_equal(model.influence_, expected.influence_)


def test_targets_of_a_data_set_for_arrays(pairs):
    X, y = pairs
    samples = DatasetRows(TensorDataset(*map(torch.tensor, (X, y))))
    np.testing.assert_array_equal(
        denoiser().fit(X, samples.targets).influence_, denoiser().fit(X, y).influence_
    )


def test_part_of_augmented_samples_stays_augmented(digits):
    X, y = digits
    plain = TensorDataset(*map(torch.tensor, (X, y)))
    samples = DatasetRows(
        plain, augmented=TensorDataset(torch.tensor(X + 1), plain.tensors[1])
    )
    for subset in Subset(samples, [5, 2]), Subset(Subset(samples, [2, 7, 5]), [2, 0]):
        part = as_lazy(subset)
        np.testing.assert_array_equal(for_training(part)[1][0], X[2] + 1)
        assert part.targets.tolist() == y[[5, 2]].tolist()


def test_a_subset_of_the_user_keeps_its_items(digits):
    class Negated(Subset):
        def __getitem__(self, index):
            x, y = super().__getitem__(index)
            return -x, y

        def __getitems__(self, indices):
            return [self[i] for i in indices]

    X, y = digits
    data = TensorDataset(*map(torch.tensor, (X, y)))
    for samples in Subset(data, [2, 5]), DatasetRows(data):
        part = as_lazy(Subset(Negated(samples, [1, 0]), [1]))
        np.testing.assert_array_equal(part[0][0], -samples[0][0])


def test_targets_read_with_their_samples_keep_their_dtype(pairs):
    targets = DatasetRows(TensorDataset(*map(torch.tensor, pairs))).targets
    assert np.asarray(targets).dtype == np.float32
    assert np.asarray(targets, dtype=np.float64).dtype == np.float64


def test_validation_samples_of_round_two_are_not_augmented(digits):
    X, y = digits
    seen = []

    def item(i):
        seen.append(i)
        return X[i], y[i]

    plain = TensorDataset(*map(torch.tensor, (X, y)))
    samples = DatasetRows(plain, augmented=Items(len(X), item))
    model = classifier(cv=0.5, drop_fraction=0.0)
    model.set_params(
        estimator__train_split=ValidSplit(4), estimator__callbacks=[EarlyStopping()]
    )
    model.fit(samples, y)
    # Two epochs of half of the samples, and of three quarters.
    assert len(seen) == 2 * 100 + 2 * 150
    assert model.estimator_.train_split.cv == 4


@pytest.mark.parametrize("part", [False, True])
def test_validation_samples_of_another_data_set_stay_as_they_are(digits, part):
    X, y = digits
    data = TensorDataset(*map(torch.tensor, (X, y)))
    other = TensorDataset(*map(torch.tensor, (1 - X, y)))
    other = Subset(other, range(3, 9)) if part else other
    model = classifier(cv=0.5, drop_fraction=0.0)
    model.set_params(
        estimator__train_split=predefined_split(other),
        estimator__callbacks=[EarlyStopping()],
    )
    model.fit(DatasetRows(data, augmented=data))
    losses = model.estimator_.history[:, "valid_loss"]
    samples, labels = zip(*other, strict=True)
    proba = model.estimator_.predict_proba(torch.stack(samples))
    assert losses[-1] == pytest.approx(log_loss(labels, proba, labels=range(10)), 1e-4)


def test_changes_to_a_copy_on_write_reach_workers(digits, tmp_path):
    X, _ = digits
    memory_map(X, tmp_path / "X.npy")
    changed = np.load(tmp_path / "X.npy", mmap_mode="c")
    changed /= 3
    sent = pickle.loads(pickle.dumps(MemoryMap(changed)))
    np.testing.assert_array_equal(sent.array, X / 3)


def test_labels_on_disk_keep_their_dtype(digits, tmp_path):
    X, y = digits
    samples = memory_map(X, tmp_path / "X.npy")
    labels = memory_map(2**25 + y, tmp_path / "y.npy")
    classes = classifier().fit(samples, labels).classes_
    assert classes.tolist() == np.unique(2**25 + y).tolist()


def test_memory_map_goes_through_the_data_set_class_of_a_net(digits, tmp_path):
    X, y = digits

    class Shifted(ArrayDataset):
        def transform(self, X, y):
            X, y = super().transform(X, y)
            return X + 1, y

    model = classifier().set_params(estimator__dataset=Shifted)
    expected = model.fit(X, y).influence_
    found = model.fit(memory_map(X, tmp_path / "X.npy"), y).influence_
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("gives_y", [True, False])
def test_searches_cut_samples(digits, gives_y):
    X, y = digits
    samples = DatasetRows(TensorDataset(*map(torch.tensor, (X, y))))
    search = GridSearchCV(classifier(), {"drop_fraction": [0.0, 0.2]}, cv=KFold(2))
    found = search.fit(samples, y if gives_y else None).cv_results_
    expected = search.fit(X, y).cv_results_
    for name in ("split0_test_score", "split1_test_score"):
        np.testing.assert_array_equal(found[name], expected[name])


@pytest.mark.parametrize("kind", [">f4", "longdouble"])
def test_memory_maps_of_rare_dtypes(kind, digits, tmp_path):
    X, y = digits
    found = classifier().fit(memory_map(X.astype(kind), tmp_path / "X.npy"), y)
    np.testing.assert_array_equal(found.influence_, classifier().fit(X, y).influence_)


def test_bad_samples_are_not_predicted(digits, tmp_path):
    X, y = digits
    model = classifier().fit(X, y)
    bad = X.astype(np.float64)
    bad[3, 0, 1, 1] = 1e300
    for samples in (memory_map(bad, tmp_path / "X.npy"), Items(9, lambda i: bad[i])):
        with pytest.raises(ValueError, match="infinity"):
            model.predict(samples)


def test_augmented_samples_are_for_training_only(digits):
    X, y = digits
    plain = TensorDataset(*map(torch.tensor, (X, y)))
    seen = {"plain": 0, "augmented": 0}

    def item(i, kind):
        seen[kind] += 1
        return X[i], y[i]

    samples = DatasetRows(
        Items(len(X), lambda i: item(i, "plain")),
        augmented=Items(len(X), lambda i: item(i, "augmented")),
    )
    model = classifier(cv=0.5).fit(samples, y)
    np.testing.assert_array_equal(
        model.influence_, classifier(cv=0.5).fit(plain).influence_
    )
    # Two epochs of a half of the samples, and of as many as there were.
    assert model.n_dropped_ > 0
    assert seen["augmented"] == 2 * 100 + 2 * len(X)
    seen["augmented"] = 0
    model.set_params(same_steps=False).fit(samples, y)
    assert seen["augmented"] == 2 * 100 + 2 * len(model.sample_indices_)


def test_random_augmentation_is_seeded(digits):
    X, y = digits

    def noisy(i):
        return torch.as_tensor(X[i]) + 0.1 * torch.randn(1, 8, 8), y[i]

    samples = DatasetRows(
        TensorDataset(*map(torch.tensor, (X, y))), augmented=Items(len(X), noisy)
    )
    first, again = (classifier().fit(samples) for _ in range(2))
    np.testing.assert_array_equal(first.influence_, again.influence_)
    assert not np.array_equal(first.influence_, classifier().fit(X, y).influence_)


@pytest.fixture(scope="module")
def fitted(digits):
    """A model, its samples as a data set and as arrays."""
    return classifier().fit(*digits), TensorDataset(*map(torch.tensor, digits)), *digits


def test_selectors_accept_data_sets(fitted):
    model, data, X, y = fitted
    params = model.get_params(deep=False)
    del params["same_steps"], params["on_harmful"]
    kept, targets = DataDropoutSampler(**params).fit_resample(data)
    assert len(kept) == len(targets) == len(model.sample_indices_)
    np.testing.assert_array_equal(targets, y[model.sample_mask_])
    np.testing.assert_array_equal(kept[0][0], X[model.sample_indices_[0]])
    assert DataDropoutTransformer(**params).fit(data).transform(data) is data


def test_influence_scores_accept_data_sets(fitted):
    model, data, X, y = fitted
    net = model.estimator_
    expected = influence_scores(net, X, y, X, y, random_state=0)
    scores = influence_scores(net, data, None, data, None, random_state=0)
    np.testing.assert_array_equal(scores.influence, expected.influence)


@pytest.mark.parametrize("gives_y", [True, False])
def test_pictures_and_reports_accept_data_sets(fitted, gives_y):
    model, data, X, y = fitted
    given = (data, y.tolist()) if gives_y else (data,)
    report = influence_report(model, X, y)
    pd.testing.assert_frame_equal(influence_report(model, *given), report)
    display = InfluenceDisplay.from_estimator(model, *given, kind="gallery")
    expected = InfluenceDisplay.from_estimator(model, X, y, kind="gallery")
    n_images = 0
    for ax, other in zip(display.ax_.flat, expected.ax_.flat, strict=True):
        assert ax.get_title() == other.get_title()
        for image, same in zip(ax.images, other.images, strict=True):
            np.testing.assert_array_equal(image.get_array(), same.get_array())
            n_images += 1
    assert n_images > 1


def test_drop_curves_accept_data_sets(fitted):
    _, data, X, y = fitted
    options = {"fractions": [0.1], "n_repeats": 1, "cv": 2, "random_state": 0}
    found = drop_curve(classifier(), data, None, **options)
    expected = drop_curve(classifier(), X, y, **options)
    np.testing.assert_array_equal(found.dropout, expected.dropout)


def test_memory_knows_data_sets_by_content(digits, tmp_path, trainings):
    X, y = digits
    changed = X.copy()
    changed[7] += 1
    mapped = memory_map(X, tmp_path / "a.npy")
    copied, other = (
        memory_map(array, tmp_path / name)
        for array, name in ((X, "b.npy"), (changed, "c.npy"))
    )
    tensors = TensorDataset(*map(torch.tensor, (X, y)))
    same = TensorDataset(*map(torch.tensor, (X, y)))
    different = TensorDataset(*map(torch.tensor, (changed, y)))
    samples = [
        ((mapped, y), 2),
        ((copied, y), 0),
        ((other, y), 2),
        ((mapped, y[::-1]), 2),
        ((tensors,), 2),
        ((same,), 0),
        ((different,), 2),
        ((DatasetRows(tensors, augmented=same),), 2),
        ((DatasetRows(tensors, augmented=different),), 2),
        ((DatasetRows(same, augmented=different),), 0),
    ]
    found = []
    for given, _ in samples:
        trainings.clear()
        classifier(memory=str(tmp_path / "memory")).fit(*given)
        found.append(len(trainings))
    assert found == [n_trainings for _, n_trainings in samples]


def test_memory_knows_image_targets_by_content(pairs, tmp_path, trainings):
    X, y = pairs
    changed = y.copy()
    changed[7] += 1
    for number, (targets, n_trainings) in enumerate([(y, 2), (y, 0), (changed, 2)]):
        given = (
            memory_map(array, tmp_path / f"{name}{number}.npy")
            for array, name in ((X, "X"), (targets, "y"))
        )
        trainings.clear()
        denoiser(memory=str(tmp_path / "memory")).fit(*given)
        assert len(trainings) == n_trainings


def test_memory_map_goes_to_other_processes_by_name(tmp_path):
    array = np.arange(2000.0).reshape(500, 4)
    part = memory_map(array, tmp_path / "X.npy")[100::3, 1:]
    sent = pickle.dumps(MemoryMap(part))
    assert len(sent) < 500 < part.nbytes
    np.testing.assert_array_equal(pickle.loads(sent).array, part)
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(MemoryMap(part[::-1]))).array, part[::-1]
    )
    with tempfile.TemporaryFile() as file:
        nameless = MemoryMap(np.memmap(file, shape=(9, 2)))
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(nameless)).array, nameless.array
    )


def test_chunks_are_all_samples():
    samples = np.arange(3 * 2**22, dtype=np.float64).reshape(-1, 2**20)
    parts = list(chunks(samples))
    assert len(parts) == 6
    assert joblib_hash(np.concatenate(parts)) == joblib_hash(samples)


def test_workers_read_memory_maps(digits, pairs, tmp_path):
    """Labels go to them apart; targets as large as inputs are read there too."""
    X, y = digits
    samples = memory_map(X, tmp_path / "X.npy")
    model = classifier(n_jobs=2).fit(samples, y)
    np.testing.assert_array_equal(model.influence_, classifier().fit(X, y).influence_)
    maps = (memory_map(part, tmp_path / f"{i}.npy") for i, part in enumerate(pairs))
    model = denoiser(n_jobs=2).fit(*maps)
    np.testing.assert_array_equal(model.influence_, denoiser().fit(*pairs).influence_)


@pytest.mark.parametrize(
    ("samples", "y", "message"),
    [
        (Items(9, lambda i: np.zeros(2)), np.arange(8) % 2, "inconsistent"),
        (Items(9, lambda i: np.zeros(2)), None, "no targets among them. Pass y"),
        (TensorDataset(torch.zeros(9, 2)), None, "no targets among them. Pass y"),
        (Items(1, lambda i: (np.zeros(2), 0)), None, "1 sample"),
        (Items(9, lambda i: (object(), i % 2)), None, "a transform that makes tensors"),
        (Items(9, lambda i: (np.float32(1), i % 2)), None, "one axis or more"),
        (Items(9, lambda i: (np.ones(2), 0, 0)), None, "got 3 values"),
        (Items(9, lambda i: (np.ones(2) * 1j, i % 2)), None, "real numbers"),
    ],
)
def test_unfit_data_sets_are_refused(samples, y, message):
    with pytest.raises((ValueError, TypeError), match=message):
        classifier().fit(samples, y)


def test_memory_map_with_nan_is_refused(digits, tmp_path):
    X, y = digits
    X = X.copy()
    X[150, 0, 3, 3] = np.nan
    with pytest.raises(ValueError, match="X contains NaN"):
        classifier().fit(memory_map(X, tmp_path / "X.npy"), y)


def test_data_set_with_nan_is_refused(digits):
    X, y = digits
    X = X.copy()
    X[150, 0, 3, 3] = np.nan
    with pytest.raises(ValueError, match="NaN or infinity, in sample 150"):
        classifier().fit(TensorDataset(*map(torch.tensor, (X, y))))


def test_data_set_without_length_is_refused():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(())

    with pytest.raises(TypeError, match="length and items by number"):
        DatasetRows(Stream())
    data = TensorDataset(torch.zeros(3))
    with pytest.raises(ValueError, match="got 2 and 3 samples"):
        DatasetRows(data, augmented=Subset(data, [0, 1]))


MEMORY_LIMIT = """
import resource, sys
import numpy as np, scipy, torch
from skorch import NeuralNetRegressor
from sk_datadrop import DataDropoutRegressor, GaussNewton, InfluenceFunctions

torch.set_num_threads(1)

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))
    def forward(self, X):
        return self.scale * X

def status(name):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if name in line)

net = NeuralNetRegressor(Net, max_epochs=1, lr=0.1, batch_size=16, verbose=0)
few = GaussNewton(n_samples=32, max_memory=1e7)
model = DataDropoutRegressor(
    net, cv=0.5, drop_fraction=0.1, engine=InfluenceFunctions(few), random_state=0
)
small = np.random.default_rng(0).random((40, 8), dtype=np.float32)
model.fit(small, small)  # whatever is loaded at the first fit
# What BLAS, that of scipy and that of numpy, reserves at its first call.
scipy.linalg.cholesky(np.eye(2))
np.ones((1000, 2)).T @ np.ones((1000, 1))
X, y = (np.load(path, mmap_mode="r") for path in sys.argv[1:3])
allowed = int(sys.argv[3])
# Private memory, which the pages of a file mapped for reading are no part of.
limit = status("VmData") + allowed
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
before = status("RssAnon")
if sys.argv[4] == "load":
    X = np.array(X)
model.fit(X, y)
print(model.n_dropped_, (X.nbytes + y.nbytes) / allowed, status("RssAnon") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_stays_flat(tmp_path):
    rng = np.random.default_rng(0)
    shape, allowed = (800, 3, 112, 112), 48 * 2**20
    for name in ("X.npy", "y.npy"):
        np.save(tmp_path / name, rng.random(shape, dtype=np.float32))

    def run(how):
        files = [str(tmp_path / name) for name in ("X.npy", "y.npy")]
        return subprocess.run(
            [sys.executable, "-W", "ignore", "-c", MEMORY_LIMIT]
            + [*files, str(allowed), how],
            capture_output=True,
            text=True,
            env=os.environ
            | {
                "PYTHONPATH": str(Path(__file__).parents[1]),
                # Else glibc keeps what was freed, for later.
                "MALLOC_MMAP_THRESHOLD_": "65536",
            },
        )

    flat = run("map")
    assert flat.returncode == 0, flat.stderr
    n_dropped, times_allowed, grown = map(float, flat.stdout.split())
    print(
        f"{times_allowed:.1f} times the memory allowed, "
        f"grown by {grown / 2**20:.0f} MiB"
    )
    assert n_dropped == 80
    assert times_allowed > 4
    assert grown < allowed
    # The limit is one: samples in memory do not fit.
    assert "MemoryError" in run("load").stderr
