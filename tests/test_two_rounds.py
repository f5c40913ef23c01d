"""The stages of a fit, each against what it should come to by hand."""

import copy
import warnings

import numpy as np
import pytest
import torch
from conftest import MLP
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import KFold
from skorch import (
    NeuralNet,
    NeuralNetBinaryClassifier,
    NeuralNetClassifier,
    NeuralNetRegressor,
)
from skorch.callbacks import Callback, EarlyStopping
from skorch.dataset import Dataset
from skorch.helper import predefined_split
from torch import nn
from torch.nn import functional as F

from sk_datadrop import (
    DataDropoutClassifier,
    DataDropoutRegressor,
    InfluenceFunctions,
    Lanczos,
    View,
)
from sk_datadrop._drop import as_many_rows
from sk_datadrop._engine import Scores
from sk_datadrop._evaluation import Evaluation
from sk_datadrop._plan import derived_seed, make_plan
from sk_datadrop._progress import SILENT
from sk_datadrop._two_rounds import (
    SplitResult,
    gather,
    score_split,
    score_splits,
    warn_of,
)
from sk_datadrop.nets import DnCNN


def weights(net):
    return torch.cat([p.detach().reshape(-1) for p in net.module_.parameters()])


def plain_training(net, X, y, seed, **parameters):
    """A training of the net without sk_datadrop."""
    net = clone(net).set_params(verbose=0, **parameters)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return net.fit(X, y)


def plan_of(model, X, y, X_val=None, y_val=None):
    is_classification = isinstance(model, DataDropoutClassifier)
    return make_plan(model, X, y, X_val, y_val, {}, is_classification=is_classification)


class StatesOfEpochs(Callback):
    """Keeps parameters and buffers as they are after each epoch."""

    def on_train_begin(self, net, **kwargs):
        self.states_ = []

    def on_epoch_end(self, net, **kwargs):
        self.states_.append(copy.deepcopy(net.module_.state_dict()))


def states_of(net):
    (callback,) = [c for _, c in net.callbacks_ if isinstance(c, StatesOfEpochs)]
    return callback.states_


class WithBuffers(nn.Module):
    """A module that evaluates differently from how it trains."""

    def __init__(self, n_outputs=3, activation=None):
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.norm = nn.BatchNorm1d(8)
        self.dropout = nn.Dropout(0.3)
        self.second = nn.Linear(8, n_outputs)
        self.activation = activation or nn.Identity()

    def forward(self, X):
        hidden = torch.tanh(self.norm(self.first(X)))
        return self.activation(self.second(self.dropout(hidden)))


def noise(kind):
    """Targets that can only be memorised, so that the best epoch is an early one."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(90, 4)).astype(np.float32)
    if kind is NeuralNetRegressor:
        return X, rng.normal(size=(90, 2)).astype(np.float32)
    return X, rng.integers(2 if kind is NeuralNetBinaryClassifier else 3, size=90)


CLASS_WEIGHTS = torch.tensor([1.0, 2.0, 5.0])
KINDS = {
    "cross entropy": (
        NeuralNetClassifier,
        {
            "criterion": nn.CrossEntropyLoss,
            "criterion__weight": CLASS_WEIGHTS,
            "criterion__label_smoothing": 0.2,
        },
        lambda out, y: F.cross_entropy(out, y, reduction="none"),
    ),
    "probabilities": (
        NeuralNetClassifier,
        {
            "criterion": nn.NLLLoss,
            "criterion__weight": CLASS_WEIGHTS,
            "module__activation": nn.Softmax(dim=1),
        },
        lambda out, y: -torch.log(out[range(len(y)), y]),
    ),
    "log-probabilities": (
        NeuralNet,
        {
            "criterion": nn.NLLLoss,
            "criterion__weight": CLASS_WEIGHTS,
            "module__activation": nn.LogSoftmax(dim=1),
        },
        lambda out, y: -out[range(len(y)), y],
    ),
    "binary": (
        NeuralNetBinaryClassifier,
        {"module__n_outputs": 1, "criterion__pos_weight": torch.tensor(5.0)},
        # Without what the weight adds.
        lambda out, y: F.binary_cross_entropy_with_logits(
            out - np.log(5), y.float(), reduction="none"
        ),
    ),
    "squares": (
        NeuralNetRegressor,
        {"module__n_outputs": 2},
        lambda out, y: ((out - y) ** 2).mean(1),
    ),
    "sum of squares": (
        NeuralNetRegressor,
        {"module__n_outputs": 2, "criterion__reduction": "sum"},
        lambda out, y: ((out - y) ** 2).sum(1),
    ),
}


class TestScoreSplit:
    def results(self, net, X, y, engine=None):
        regression = isinstance(net, NeuralNetRegressor)
        kind = DataDropoutRegressor if regression else DataDropoutClassifier
        plan = plan_of(kind(net, cv=3, engine=engine, random_state=0), X, y)
        result = score_split(plan, 1)
        states = states_of(result.net)
        best = int(np.argmin(result.net.history[:, "valid_loss"]))
        assert best < len(states) - 1
        module = copy.deepcopy(result.net.module_).eval()
        module.load_state_dict(states[best])
        return plan.splits[1], result, module, best

    @pytest.mark.parametrize("name", KINDS)
    def test_evaluations_are_those_of_the_best_epoch(self, name):
        kind, parameters, loss_of = KINDS[name]
        X, y = noise(kind)
        net = kind(
            WithBuffers,
            **{"lr": 0.1, "optimizer": torch.optim.Adam} | parameters,
            max_epochs=8,
            batch_size=16,
            callbacks=[StatesOfEpochs],
        )
        split, result, module, best = self.results(net, X, y)
        assert result.scores.views == [View(1, best + 1, 0)]
        for part, found in [
            (split.train, result.train),
            (split.held_out, result.held_out),
        ]:
            with torch.no_grad():
                outputs = module(torch.from_numpy(X[part]))
                if kind is NeuralNetBinaryClassifier:
                    outputs = outputs[:, 0]
                losses = loss_of(outputs, torch.from_numpy(y[part]))
            assert found.losses.dtype == np.float64
            np.testing.assert_allclose(found.losses, losses, rtol=1e-4, atol=1e-6)
            if kind is NeuralNetRegressor:
                assert found.log_proba is None
                np.testing.assert_allclose(
                    found.mean_target, y[part].mean(0), rtol=1e-5
                )
                continue
            assert found.log_proba.dtype == np.float32
            proba = np.exp(found.log_proba.astype(float))
            np.testing.assert_allclose(proba.sum(1), 1, rtol=1e-5)
            of_given = proba[np.arange(len(part)), y[part].astype(int)]
            expected = np.exp(-losses.numpy())
            np.testing.assert_allclose(of_given, expected, rtol=1e-4, atol=1e-6)

    def test_it_is_the_best_of_several_checkpoints(self):
        X, y = noise(NeuralNetClassifier)
        net = NeuralNetClassifier(
            MLP,
            criterion=nn.CrossEntropyLoss,
            optimizer=torch.optim.Adam,
            lr=0.02,
            max_epochs=8,
            batch_size=16,
            callbacks=[StatesOfEpochs],
        )
        engine = InfluenceFunctions(n_checkpoints=3)
        split, result, module, best = self.results(net, X, y, engine)
        assert best > 0
        assert len(result.scores.views) == 3
        assert result.scores.views[-1].epoch == best + 1
        with torch.no_grad():
            outputs = module(torch.from_numpy(X[split.held_out]))
        np.testing.assert_allclose(
            result.held_out.log_proba, outputs.log_softmax(1), rtol=1e-4, atol=1e-6
        )
        losses = result.course.losses
        assert result.course.best_epoch == best + 1
        assert losses.tolist() == result.net.history[:, "valid_loss"]
        frequencies = np.bincount(y[split.train]) / len(split.train)
        assert result.course.constant == pytest.approx(
            -np.log(frequencies[y[split.held_out]]).mean()
        )
        assert result.course.lowest == pytest.approx(result.held_out.losses.mean())

    def test_of_image_targets_there_are_losses_only(self):
        X = np.random.default_rng(0).random((30, 1, 6, 6)).astype(np.float32)
        y = np.random.default_rng(1).random((30, 1, 6, 6)).astype(np.float32)
        net = NeuralNetRegressor(
            DnCNN,
            module__depth=3,
            module__width=8,
            optimizer=torch.optim.Adam,
            lr=0.05,
            max_epochs=8,
            batch_size=8,
            callbacks=[StatesOfEpochs],
        )
        split, result, module, _ = self.results(net, X, y)
        for part, found in [
            (split.train, result.train),
            (split.held_out, result.held_out),
        ]:
            with torch.no_grad():
                outputs = module(torch.from_numpy(X[part])).numpy()
            expected = ((outputs - y[part]) ** 2).mean((1, 2, 3))
            np.testing.assert_allclose(found.losses, expected, rtol=1e-4)
            assert found.log_proba is None
        constant = y[split.train].mean(0)
        assert result.course.constant == pytest.approx(
            ((constant - y[split.held_out]) ** 2).mean(), rel=1e-5
        )

    def test_given_held_out_samples_are_evaluated(self, classifier, blobs):
        X, y = blobs
        model = DataDropoutClassifier(classifier, random_state=0)
        plan = plan_of(model, X[:60], y[:60], X[60:], y[60:])
        result = score_split(plan, 0)
        assert len(result.train.losses) == len(result.train.log_proba) == 60
        assert len(result.held_out.losses) == len(result.held_out.log_proba) == 30
        assert np.isnan(result.scores.held_out).all()


def test_nets_of_round_one_are_plain_trainings_from_other_seeds(classifier, blobs):
    X, y = blobs
    folds = list(KFold(3).split(X))
    model = DataDropoutClassifier(classifier, cv=folds, random_state=7).fit(X, y)
    for number, (train, held_out) in enumerate(folds):
        plain = plain_training(
            classifier,
            X[train],
            y[train],
            derived_seed(7, number) if number else 7,
            train_split=predefined_split(Dataset(X[held_out], y[held_out])),
        )
        found = model.round_one_estimators_[number]
        assert torch.equal(weights(plain), weights(found))
        assert found.history[:, "valid_loss"] == plain.history[:, "valid_loss"]


class TestGather:
    def scores(self, views, n_train, n_held_out):
        """Numbers that tell the view, the part and the position."""
        numbers = np.array([100.0 * (10 * v.split + v.group) for v in views])[:, None]
        return Scores(
            train=numbers + np.arange(n_train),
            held_out=-1 - numbers - np.arange(n_held_out),
            views=views,
            solver_results=[],
        )

    def result(self, scores):
        """Losses are the influences of the first view, and so are log-probabilities."""
        on_train, on_held_out = (
            Evaluation(part[0], log_proba=np.stack([part[0]] * 3, axis=1))
            for part in (scores.train, scores.held_out)
        )
        return SplitResult(None, scores, on_train, on_held_out, None, None, {}, [])

    def test_numbers_go_to_their_samples(self, classifier, blobs):
        splits = [(np.array([5, 2]), np.array([7, 0, 3])), ([1, 9], [4, 5])]
        plan = plan_of(
            DataDropoutClassifier(classifier, cv=KFold(2), random_state=0), *blobs
        )
        plan.splits[:] = [type(plan.splits[0])(*split) for split in splits]
        views = [[View(0, 4, 0), View(0, 4, 1)], [View(1, 2, 0)]]
        evidence = gather(
            plan,
            [
                self.result(self.scores(of_split, len(train), len(held_out)))
                for of_split, (train, held_out) in zip(views, splits, strict=True)
            ],
        )
        expected = np.full((3, 90), np.nan)
        expected[0, [5, 2, 7, 0, 3]] = [0, 1, -1, -2, -3]
        expected[1, [5, 2, 7, 0, 3]] = [100, 101, -101, -102, -103]
        expected[2, [1, 9, 4, 5]] = [1000, 1001, -1001, -1002]
        np.testing.assert_array_equal(evidence.influence_per_view, expected)
        np.testing.assert_array_equal(evidence.split_of_view, [0, 0, 1])
        assert evidence.influence[5] == np.mean([0, 100, -1002])
        assert np.isnan(evidence.influence[10:]).all()
        np.testing.assert_array_equal(evidence.losses, expected[[0, 2]])
        rows, columns = np.nonzero(evidence.held_out)
        assert set(zip(rows.tolist(), columns.tolist(), strict=True)) == {
            *((0, 7), (0, 0), (0, 3)),
            *((1, 4), (1, 5)),
        }
        assert [p.split for p in evidence.predictions] == [0, 0, 1, 1]
        for split, rows, log_proba in evidence.predictions:
            np.testing.assert_array_equal(log_proba[:, 2], evidence.losses[split, rows])
        np.testing.assert_array_equal(evidence.codes, plan.samples.codes)

    def test_given_held_out_samples_have_no_place(self, classifier, blobs):
        X, y = blobs
        plan = plan_of(
            DataDropoutClassifier(classifier, random_state=0),
            *(X[:60], y[:60], X[60:], y[60:]),
        )
        scores = self.scores([View(0, 1, 0)], 60, 30)
        evidence = gather(plan, [self.result(scores)])
        np.testing.assert_array_equal(evidence.influence, np.arange(60))


def test_a_share_drops_the_most_harmful(classifier, blobs):
    model = DataDropoutClassifier(classifier, cv=3, drop_fraction=0.1, random_state=0)
    model.fit(*blobs)
    dropped = np.sort(np.argsort(-model.harm_probability_)[:9])
    np.testing.assert_array_equal(np.flatnonzero(~model.sample_mask_), dropped)


class TestRoundTwo:
    @pytest.mark.parametrize("drop_fraction", [0.0, 0.1])
    @pytest.mark.parametrize("same_steps", [True, False])
    def test_is_plain_training_on_the_kept_samples(
        self, classifier, blobs, drop_fraction, same_steps
    ):
        X, y = blobs
        model = DataDropoutClassifier(
            classifier,
            cv=3,
            drop_fraction=drop_fraction,
            same_steps=same_steps,
            random_state=4,
        ).fit(X, y)
        rows = model.sample_indices_
        assert len(rows) == (1 - drop_fraction) * 90
        if same_steps:
            rows = as_many_rows(rows, 90, np.random.default_rng(4))
        plain = plain_training(classifier, X[rows], y[rows], 4, train_split=None)
        assert torch.equal(weights(plain), weights(model.estimator_))
        n_batches = [len(batches) for batches in model.estimator_.history[:, "batches"]]
        size = 90 if same_steps else len(rows)
        assert set(n_batches) == {-(-size // classifier.batch_size)}

    def test_given_held_out_samples_serve_early_stopping(self, classifier, blobs):
        X, y = blobs
        classifier.set_params(
            callbacks=[EarlyStopping(patience=1)], train_split=None, max_epochs=50
        )
        model = DataDropoutClassifier(classifier, drop_fraction=0.1, random_state=0)
        model.fit(X[:60], y[:60], X_val=X[60:], y_val=y[60:])
        rows = as_many_rows(model.sample_indices_, 60, np.random.default_rng(0))
        for kept, net in [
            (np.arange(60), model.round_one_estimators_[0]),
            (rows, model.estimator_),
        ]:
            split = predefined_split(Dataset(X[60:], y[60:]))
            plain = plain_training(classifier, X[kept], y[kept], 0, train_split=split)
            assert net.history[:, "valid_loss"] == plain.history[:, "valid_loss"]
            assert torch.equal(weights(plain), weights(net))

    def test_else_the_nets_own_split_serves_it(self, classifier, blobs):
        X, y = blobs
        classifier.set_params(callbacks=[EarlyStopping(patience=3)])
        model = DataDropoutClassifier(
            classifier, cv=3, drop_fraction=0.1, random_state=0
        ).fit(X, y)
        keep = model.sample_mask_
        plain = plain_training(classifier, X[keep], y[keep], 0)
        assert torch.equal(weights(plain), weights(model.estimator_))
        history = model.estimator_.history
        assert history[:, "valid_loss"] == plain.history[:, "valid_loss"]


class TestGivenHeldOutSamples:
    """They are what cv could have held out, in one split that trains on the rest."""

    def test_of_a_classifier(self, classifier, blobs):
        X, y = blobs
        model = DataDropoutClassifier(classifier, random_state=0)
        model.fit(X[:60], y[:60], X_val=X[60:], y_val=y[60:])
        cv = [(np.arange(60), np.arange(60, 90))]
        split = clone(model).set_params(cv=cv).fit(X, y)
        assert model.views_ == split.views_
        np.testing.assert_array_equal(
            model.influence_per_view_, split.influence_per_view_[:, :60]
        )
        assert not np.isnan(model.influence_per_view_).any()

    def test_of_images(self):
        X = np.random.default_rng(0).random((40, 1, 6, 6))
        net = NeuralNetRegressor(DnCNN, module__depth=2, module__width=4, max_epochs=2)
        model = DataDropoutRegressor(net, random_state=0)
        model.fit(X[:30], X[:30], X_val=X[30:], y_val=X[30:])
        cv = [(np.arange(30), np.arange(30, 40))]
        split = clone(model).set_params(cv=cv).fit(X, X)
        np.testing.assert_array_equal(
            model.influence_per_view_, split.influence_per_view_[:, :30]
        )


class TestWarnings:
    """Those of the splits are issued where fit is called, whoever does the work."""

    def test_of_a_solver_that_does_not_converge(self, classifier, blobs):
        engine = InfluenceFunctions(solver=Lanczos(max_iter=1, tol=1e-9))
        model = DataDropoutClassifier(classifier, cv=3, engine=engine, random_state=0)
        with pytest.warns(ConvergenceWarning, match="raise max_iter") as warned:
            model.fit(*blobs)
        assert [w.filename for w in warned] == [__file__] * 3
        messages = [result.message for result in model.solver_results_]
        assert [str(w.message) for w in warned] == messages

    def test_of_the_training(self, classifier, blobs):
        net = classifier.set_params(callbacks=[WarnsOfEpoch])
        plan = plan_of(DataDropoutClassifier(net, cv=2, random_state=0), *blobs)
        # Here a warning would be an error.
        results = score_splits(plan, SILENT)
        with pytest.warns(FutureWarning, match="that was epoch 2") as warned:
            warn_of(results, stacklevel=1)
        assert [w.filename for w in warned] == [__file__] * 2

    def test_of_others_come_from_where_they_were(self, classifier, blobs):
        """As in a training without us: filters of modules hold, and deprecations."""
        net = classifier.set_params(callbacks=[WarnsAsAnother])
        model = DataDropoutClassifier(net, cv=2, random_state=0)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            warnings.filterwarnings("default", category=DeprecationWarning)
            warnings.filterwarnings("error", module="sk_datadrop")
            warnings.filterwarnings("ignore", module="skorch[.]net")
            model.fit(*blobs)
        # Once for both splits, and once in round 2.
        assert [str(w.message) for w in caught] == ["of the module", "of the module"]
        assert {(w.filename, w.lineno) for w in caught} == {("elsewhere.py", 7)}


class WarnsOfEpoch(Callback):
    def on_epoch_end(self, net, **kwargs):
        if len(net.history) == 2:
            warnings.warn("that was epoch 2", FutureWarning, stacklevel=1)


class WarnsAsAnother(Callback):
    def on_epoch_end(self, net, **kwargs):
        if len(net.history) == 2:
            warnings.warn("of skorch", FutureWarning, stacklevel=2)
            warnings.warn_explicit(
                "of the module", DeprecationWarning, "elsewhere.py", 7, registry=SEEN
            )


SEEN: dict = {}


def test_a_loss_that_is_not_finite_names_the_split(plane):
    net = NeuralNetRegressor(
        MLP, module__n_outputs=1, optimizer=torch.optim.SGD, lr=1e30, max_epochs=3
    )
    with pytest.raises(ValueError, match="round 1, split 1 of 3: the training loss"):
        DataDropoutRegressor(net, cv=3, random_state=0).fit(*plane)


@pytest.fixture(scope="module")
def fitted():
    X, codes = noise(NeuralNetClassifier)
    y = np.array(["a", "b", "c"])[codes]
    net = NeuralNetClassifier(MLP, criterion=nn.CrossEntropyLoss, lr=0.1)
    model = DataDropoutClassifier(net, drop_fraction=0.2, random_state=0)
    return model.fit(X, y), y


class TestStore:
    def test_shapes(self, fitted):
        model, _ = fitted
        assert model.influence_.shape == model.sample_mask_.shape == (90,)
        assert model.influence_per_view_.shape == (3, 90)
        assert model.harm_probability_.shape == (90,)
        assert [view.split for view in model.views_] == list(range(3))
        assert len(model.solver_results_) == 3
        assert len(model.round_one_estimators_) == 3
        assert model.input_shape_ == (4,)
        assert model.n_features_in_ == 4
        assert model.classes_.tolist() == ["a", "b", "c"]

    def test_attributes_agree(self, fitted):
        model, y = fitted
        mask = model.sample_mask_
        np.testing.assert_array_equal(model.sample_indices_, np.flatnonzero(mask))
        assert model.n_dropped_ == np.sum(~mask) == 18
        assert model.drop_fraction_ == 0.2
        mean = model.influence_per_view_.mean(0)
        np.testing.assert_allclose(model.influence_, mean)
        expected = [np.mean(~mask[y == label]) for label in "abc"]
        np.testing.assert_array_equal(model.drop_rate_per_class_, expected)

    def test_timings(self, fitted):
        model, _ = fitted
        assert set(model.timings_) == {"round_one", "scoring", "round_two"}
        assert all(seconds > 0 for seconds in model.timings_.values())

    def test_the_share_dropped_is_that_of_the_samples_scored(self, classifier, blobs):
        # The first 18 samples take no part.
        cv = [(np.arange(18, 72), np.arange(72, 90))]
        model = DataDropoutClassifier(
            classifier, cv=cv, drop_fraction=0.25, random_state=0
        ).fit(*blobs)
        assert np.isnan(model.influence_).sum() == 18
        assert model.n_dropped_ == 18
        assert model.drop_fraction_ == 0.25
