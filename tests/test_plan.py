"""Bad input is refused before any training, in a sentence that helps."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import MLP
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from skorch import (
    NeuralNet,
    NeuralNetBinaryClassifier,
    NeuralNetClassifier,
    NeuralNetRegressor,
)
from skorch.callbacks import Callback, EarlyStopping
from torch import nn

from sk_datadrop import (
    DataDropoutClassifier,
    DataDropoutRegressor,
    DataDropoutSampler,
    DataDropoutTransformer,
    GaussNewton,
    InfluenceFunctions,
    Lanczos,
)
from sk_datadrop._plan import cut, derived_seed, make_plan, takes_classes

ESTIMATORS = [
    DataDropoutClassifier,
    DataDropoutRegressor,
    DataDropoutTransformer,
    DataDropoutSampler,
]


class NoTraining(Callback):
    """Fails as soon as a training begins: a refused fit must not have trained."""

    def on_epoch_begin(self, net, **kwargs):
        raise AssertionError("trained before the input was checked")


@pytest.fixture
def classifier(classifier):
    return classifier.set_params(callbacks=[NoTraining])


@pytest.fixture
def regressor(regressor):
    return regressor.set_params(callbacks=[NoTraining])


def test_what_is_not_refused_is_trained(classifier, regressor, blobs, plane):
    for model, data in [
        (DataDropoutClassifier(classifier), blobs),
        (DataDropoutRegressor(regressor), plane),
    ]:
        with pytest.raises(AssertionError, match="trained before"):
            model.fit(*data)


class TestParameters:
    @pytest.mark.parametrize("estimator", [LogisticRegression(), MLP(), MLP, None])
    @pytest.mark.parametrize("wrapper", ESTIMATORS)
    def test_only_a_skorch_net_will_do(self, wrapper, estimator, blobs):
        message = f"{wrapper.__name__} needs a skorch net .* Wrap a torch module"
        with pytest.raises(TypeError, match=message):
            wrapper(estimator).fit(*blobs)

    @pytest.mark.parametrize(
        ("parameters", "message"),
        [
            ({"drop_fraction": 1.0}, r"drop_fraction must be .* got 1\.0"),
            ({"drop_fraction": "worst"}, "drop_fraction must be .* got 'worst'"),
            (
                {"objective": "accuracy"},
                "objective must be 'bounded', 'loss' or a callable",
            ),
            ({"cv": 1}, "cv must be at least 2 folds"),
            ({"cv": 31}, r"class 0 has 30 sample\(s\), too few for cv=31"),
            ({"cv": [(np.arange(90), [])]}, r"holds out 0 sample\(s\)"),
            ({"cv": [([], np.arange(90))]}, "leaves none to train on"),
        ],
    )
    def test_of_the_estimator(self, classifier, blobs, parameters, message):
        with pytest.raises(ValueError, match=message):
            DataDropoutClassifier(classifier, **parameters).fit(*blobs)

    @pytest.mark.parametrize(
        ("engine", "message"),
        [
            (3, r"engine must be InfluenceFunctions\(...\) or None; got 3"),
            (InfluenceFunctions, "engine must be .* got <class"),
            (
                InfluenceFunctions(curvature="gauss-newton"),
                r"curvature must be GaussNewton\(...\), .* got 'gauss-newton'",
            ),
            (InfluenceFunctions(solver=Lanczos), "solver must be an instance such as"),
            (InfluenceFunctions(n_groups=2.0), "n_groups must be an instance of int"),
        ],
    )
    def test_engines_of_the_wrong_kind(self, classifier, blobs, engine, message):
        with pytest.raises(TypeError, match=message):
            DataDropoutClassifier(classifier, engine=engine).fit(*blobs)

    @pytest.mark.parametrize(
        ("engine", "message"),
        [
            (
                InfluenceFunctions(curvature=GaussNewton(damping=-1)),
                "damping == -1, must be",
            ),
            (
                InfluenceFunctions(autocast="half"),
                "autocast must be None, 'bfloat16' or 'float16'; got 'half'",
            ),
            (
                InfluenceFunctions(solver=Lanczos(max_iter=0)),
                "max_iter == 0, must be >= 1",
            ),
            (InfluenceFunctions(n_groups=0), "n_groups == 0, must be >= 1"),
            (InfluenceFunctions(n_checkpoints=0), "n_checkpoints == 0, must be >= 1"),
        ],
    )
    def test_of_the_engine(self, classifier, blobs, engine, message):
        with pytest.raises(ValueError, match=message):
            DataDropoutClassifier(classifier, engine=engine).fit(*blobs)


class TestData:
    @pytest.mark.parametrize("kind", [np.array, pd.Categorical, list])
    def test_labels_for_a_regressor(self, regressor, plane, kind):
        y = kind(["low", "high"] * 40)
        message = "y holds text, such as 'low'.*DataDropoutClassifier"
        with pytest.raises(ValueError, match=message):
            DataDropoutRegressor(regressor).fit(plane[0], y)

    def test_no_targets(self, classifier, blobs):
        with pytest.raises(ValueError, match="Classifier requires y to be passed"):
            DataDropoutClassifier(classifier).fit(blobs[0], None)

    def test_lengths_differ(self, classifier, blobs):
        X, y = blobs
        message = r"inconsistent numbers of samples.*90, 80"
        with pytest.raises(ValueError, match=message):
            DataDropoutClassifier(classifier).fit(X, y[:80])
        with pytest.raises(ValueError, match=f"y_val: .*{message}"):
            DataDropoutClassifier(classifier).fit(X, y, X_val=X, y_val=y[:80])

    @pytest.mark.parametrize(("given", "missing"), [("X", "y"), ("y", "X")])
    def test_only_one_of_X_val_and_y_val(self, classifier, blobs, given, missing):
        message = f"X_val and y_val go together; {missing}_val is missing"
        held_out = {f"{given}_val": dict(zip("Xy", blobs, strict=True))[given]}
        with pytest.raises(ValueError, match=message):
            DataDropoutClassifier(classifier).fit(*blobs, **held_out)

    def test_X_val_too_short(self, classifier, blobs):
        X, y = blobs
        with pytest.raises(ValueError, match=r"X_val holds 1 sample\(s\)"):
            DataDropoutClassifier(classifier).fit(X, y, X_val=X[:1], y_val=y[:1])

    def test_y_val_of_another_shape(self, regressor, plane):
        X, y = plane
        with pytest.raises(ValueError, match=r"y_val: the targets have shape \(2,\)"):
            DataDropoutRegressor(regressor).fit(X, y, X_val=X, y_val=np.c_[y, y])


class MeanOnly(nn.Module):
    def forward(self, outputs, y):
        return nn.functional.cross_entropy(outputs, y)


class TestNet:
    def test_outputs_that_do_not_match_the_classes(self, classifier, blobs):
        classifier.set_params(module__n_outputs=5)
        with pytest.raises(ValueError, match=r"outputs have shape \(5,\) .* 3 classes"):
            DataDropoutClassifier(classifier).fit(*blobs)

    def test_binary_net_for_three_classes(self, blobs):
        net = NeuralNetBinaryClassifier(
            MLP, module__n_outputs=1, callbacks=[NoTraining]
        )
        message = "needs two classes and one output per sample; got 3 classes"
        with pytest.raises(ValueError, match=message):
            DataDropoutClassifier(net).fit(*blobs)

    def test_outputs_that_do_not_match_the_targets(self, regressor, plane):
        regressor.set_params(module__n_outputs=2)
        message = r"shape \(2,\) per sample, the targets \(\)"
        with pytest.raises(ValueError, match=message):
            DataDropoutRegressor(regressor).fit(*plane)

    def test_net_that_does_not_take_the_samples(self, classifier, blobs):
        classifier.set_params(module__n_inputs=9)
        message = r"the net failed on samples of shape \(4,\)"
        with pytest.raises(ValueError, match=message):
            DataDropoutClassifier(classifier).fit(*blobs)

    def test_criterion_without_losses_per_sample(self, classifier, blobs):
        classifier.set_params(criterion=MeanOnly)
        with pytest.raises(ValueError, match="MeanOnly has no losses per sample"):
            DataDropoutClassifier(classifier).fit(*blobs)

    def test_early_stopping_without_validation_samples_in_round_two(
        self, classifier, blobs
    ):
        classifier.set_params(callbacks=[EarlyStopping, NoTraining], train_split=None)
        message = "EarlyStopping watches a validation quantity"
        with pytest.raises(ValueError, match=message):
            DataDropoutClassifier(classifier).fit(*blobs)

    @pytest.mark.parametrize("wrapper", ESTIMATORS)
    def test_a_module_instance_is_warned_of_where_fit_is_called(self, wrapper, plane):
        X, y = plane
        if wrapper is DataDropoutRegressor:
            net = NeuralNet(MLP(n_outputs=1), nn.MSELoss, callbacks=[NoTraining])
        else:
            y = (y > 0).astype(int)
            net = NeuralNet(
                MLP(n_outputs=2), nn.CrossEntropyLoss, callbacks=[NoTraining]
            )
        message = "holds an instance of MLP.*Pass the class"
        with (
            pytest.warns(UserWarning, match=message) as warned,
            pytest.raises(AssertionError, match="trained before"),
        ):
            wrapper(net, random_state=0).fit(X, y)
        assert [w.filename for w in warned] == [__file__]


class NLL(nn.NLLLoss):
    """A criterion of the user's own that inherits from one of classes."""


@pytest.mark.parametrize(
    ("net", "expected"),
    [
        (NeuralNet(MLP, nn.CrossEntropyLoss), True),
        (NeuralNet(MLP, nn.CrossEntropyLoss()), True),
        (NeuralNet(MLP, NLL), True),
        (NeuralNet(MLP, nn.MSELoss), False),
        (NeuralNet(MLP, nn.BCEWithLogitsLoss), False),
        (NeuralNetRegressor(MLP, criterion=nn.CrossEntropyLoss), False),
        (NeuralNetClassifier(MLP, criterion=nn.MSELoss), True),
        (NeuralNetBinaryClassifier(MLP), True),
    ],
)
def test_the_kind_of_net_and_else_the_criterion_say_whether_targets_are_classes(
    net, expected
):
    assert takes_classes(net) is expected


class TestFitParameters:
    @pytest.mark.parametrize("value", [np.arange(10, 14), [10, 11, 12, 13]])
    def test_what_has_an_entry_per_sample_is_cut(self, value):
        np.testing.assert_array_equal(cut(value, np.array([3, 0]), 4), [13, 10])

    @pytest.mark.parametrize(
        "value", [None, 3, "four", {1: 1, 2: 2, 3: 3, 4: 4}, [10, 11, 12], np.ones(5)]
    )
    def test_all_else_stays_as_it_is(self, value):
        assert cut(value, np.array([3, 0]), 4) is value


class TestSeeds:
    def plan(self, net, data, random_state, **parameters):
        model = DataDropoutClassifier(net, random_state=random_state, **parameters)
        return make_plan(model, *data, None, None, {}, is_classification=True)

    def test_an_integer_is_the_seed_of_the_first_split_and_of_round_two(
        self, classifier, blobs
    ):
        plan = self.plan(classifier, blobs, 7)
        seeds = [plan.recipe("", s.train, k).seed for k, s in enumerate(plan.splits)]
        assert seeds[0] == plan.recipe("round 2", np.arange(90)).seed == 7
        assert len(set(seeds)) == 3

    def test_the_folds_are_those_of_a_derived_seed(self, classifier, blobs):
        X, y = blobs
        expected = StratifiedKFold(3, shuffle=True, random_state=derived_seed(7))
        splits = self.plan(classifier, blobs, 7).splits
        for split, (train, held_out) in zip(splits, expected.split(X, y), strict=True):
            np.testing.assert_array_equal(split.train, train)
            np.testing.assert_array_equal(split.held_out, held_out)

    def test_derived_seeds_differ(self):
        seeds = {derived_seed(s, *key) for s in (0, 1) for key in [(), (1,), (2,)]}
        assert len(seeds) == 6
        assert not seeds & {0, 1}

    def test_a_generator_and_the_one_of_torch_move_on(self, classifier, blobs):
        with torch.random.fork_rng():
            torch.manual_seed(5)
            drawn = [self.plan(classifier, blobs, None).seed for _ in range(2)]
            torch.manual_seed(5)
            assert self.plan(classifier, blobs, None).seed == drawn[0] != drawn[1]
        rng = np.random.RandomState(0)
        drawn = [self.plan(classifier, blobs, rng).seed for _ in range(2)]
        again = self.plan(classifier, blobs, np.random.RandomState(0)).seed
        assert again == drawn[0] != drawn[1]
