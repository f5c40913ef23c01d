"""Bad input is refused before any training, in a sentence that helps."""

import numpy as np
import pytest
import torch
from conftest import MLP
from sklearn.linear_model import LogisticRegression
from skorch import NeuralNetBinaryClassifier, NeuralNetClassifier, NeuralNetRegressor
from skorch.callbacks import EarlyStopping
from torch import nn

from sk_datadrop import (
    DataDropoutClassifier,
    DataDropoutRegressor,
    GaussNewton,
    Lanczos,
    Views,
    _round_one,
    _two_rounds,
)


@pytest.fixture(autouse=True)
def _no_training(request, monkeypatch):
    """A refused fit must not have trained anything."""
    if "trains" in request.keywords:
        return

    def refuse(*args, **kwargs):
        raise AssertionError("trained before the input was checked")

    monkeypatch.setattr(_round_one, "train_round", refuse)
    monkeypatch.setattr(_two_rounds, "train", refuse)


@pytest.mark.parametrize("estimator", [LogisticRegression(), MLP(), MLP, None])
@pytest.mark.parametrize("wrapper", [DataDropoutClassifier, DataDropoutRegressor])
def test_not_a_skorch_net(wrapper, estimator, blobs):
    with pytest.raises(TypeError, match="needs a skorch net .* Wrap a torch module"):
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
        ({"cv": 31}, r"class 0 has 30 row\(s\), too few for cv=31"),
        ({"cv": [(np.arange(90), [])]}, r"holds out 0 row\(s\)"),
        ({"cv": [([], np.arange(90))]}, "leaves none to train on"),
    ],
)
def test_parameters(classifier, blobs, parameters, message):
    with pytest.raises(ValueError, match=message):
        DataDropoutClassifier(classifier, **parameters).fit(*blobs)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"curvature": "gauss-newton"},
            "curvature must be None or an instance of Curv",
        ),
        ({"solver": Lanczos}, "solver must be None or an instance of Solver"),
        ({"views": 3}, "views must be None or an instance of Views; got 3"),
    ],
)
def test_parameter_objects_of_the_wrong_kind(classifier, blobs, parameters, message):
    with pytest.raises(TypeError, match=message):
        DataDropoutClassifier(classifier, **parameters).fit(*blobs)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"curvature": GaussNewton(damping=-1)}, "damping must be a positive number"),
        ({"autocast": "half"}, "autocast must be None, 'bfloat16' or 'float16'; got"),
        ({"solver": Lanczos(max_iter=0)}, "max_iter must be a positive integer"),
        ({"views": Views(n_groups=0)}, "n_groups must be a positive integer"),
    ],
)
def test_parameters_of_parameter_objects(classifier, blobs, parameters, message):
    with pytest.raises(ValueError, match=message):
        DataDropoutClassifier(classifier, **parameters).fit(*blobs)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_of_X(classifier, blobs, value):
    X, y = blobs
    X[3, 1] = value
    with pytest.raises(ValueError, match="X contains (NaN|infinity)"):
        DataDropoutClassifier(classifier).fit(X, y)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_of_y(classifier, regressor, blobs, plane, value):
    for wrapper, (X, y) in [
        (DataDropoutRegressor(regressor), plane),
        (DataDropoutClassifier(classifier), blobs),
    ]:
        y = y.astype(float)
        y[0] = value
        with pytest.raises(ValueError, match="y contains (NaN|infinity)"):
            wrapper.fit(X, y)


def test_lengths_differ(classifier, blobs):
    with pytest.raises(ValueError, match=r"inconsistent numbers of samples.*90, 80"):
        DataDropoutClassifier(classifier).fit(blobs[0], blobs[1][:80])


def test_no_targets(classifier, blobs):
    with pytest.raises(ValueError, match="requires y to be passed"):
        DataDropoutClassifier(classifier).fit(blobs[0], None)


def test_one_class(classifier, blobs):
    with pytest.raises(ValueError, match="at least two classes in y; got one class: 1"):
        DataDropoutClassifier(classifier).fit(blobs[0], np.ones(90, dtype=int))


def test_real_targets_for_a_classifier(classifier, plane):
    with pytest.raises(ValueError, match="Unknown label type"):
        DataDropoutClassifier(classifier).fit(*plane)


def test_only_one_of_X_val_and_y_val(classifier, blobs):
    with pytest.raises(ValueError, match="X_val and y_val go together; y_val is miss"):
        DataDropoutClassifier(classifier).fit(*blobs, X_val=blobs[0])


def test_X_val_too_short(classifier, blobs):
    X, y = blobs
    with pytest.raises(ValueError, match=r"X_val holds 1 row\(s\)"):
        DataDropoutClassifier(classifier).fit(X, y, X_val=X[:1], y_val=y[:1])


def test_X_val_of_another_shape(classifier, blobs):
    X, y = blobs
    with pytest.raises(ValueError, match="3 features, but .* expecting 4"):
        DataDropoutClassifier(classifier).fit(X, y, X_val=X[:, :3], y_val=y)


def test_label_of_y_val_that_y_does_not_hold(classifier, blobs):
    X, y = blobs
    with pytest.raises(ValueError, match="y_val holds the label 7, which is not among"):
        DataDropoutClassifier(classifier).fit(X, y, X_val=X, y_val=np.where(y, y, 7))


def test_outputs_that_do_not_match_the_classes(classifier, blobs):
    classifier.set_params(module__n_outputs=5)
    with pytest.raises(ValueError, match=r"outputs have shape \(5,\) .* 3 classes"):
        DataDropoutClassifier(classifier).fit(*blobs)


def test_binary_net_for_three_classes(blobs):
    net = NeuralNetBinaryClassifier(MLP, module__n_outputs=1)
    with pytest.raises(ValueError, match="takes two classes and one output per row"):
        DataDropoutClassifier(net).fit(*blobs)


def test_outputs_that_do_not_match_the_targets(regressor, plane):
    regressor.set_params(module__n_outputs=2)
    with pytest.raises(ValueError, match=r"shape \(2,\) per row, the targets \(\)"):
        DataDropoutRegressor(regressor).fit(*plane)


def test_net_that_does_not_take_the_rows(classifier, blobs):
    classifier.set_params(module__n_inputs=9)
    with pytest.raises(ValueError, match=r"the net failed on rows of shape \(4,\)"):
        DataDropoutClassifier(classifier).fit(*blobs)


class MeanOnly(nn.Module):
    def forward(self, outputs, y):
        return nn.functional.cross_entropy(outputs, y)


def test_criterion_without_row_losses(classifier, blobs):
    classifier.set_params(criterion=MeanOnly)
    with pytest.raises(ValueError, match="MeanOnly has no per-row losses"):
        DataDropoutClassifier(classifier).fit(*blobs)


def test_early_stopping_without_validation_rows_in_round_two(classifier, blobs):
    classifier.set_params(callbacks=[EarlyStopping()], train_split=None)
    with pytest.raises(ValueError, match="EarlyStopping watches a validation quantity"):
        DataDropoutClassifier(classifier).fit(*blobs)


@pytest.mark.trains
def test_module_instance_warns(blobs):
    net = NeuralNetClassifier(
        MLP(), criterion=nn.CrossEntropyLoss, max_epochs=1, batch_size=16
    )
    with pytest.warns(UserWarning, match="holds an instance of MLP.*Pass the class"):
        DataDropoutClassifier(net, cv=3, random_state=0).fit(*blobs)


@pytest.mark.trains
def test_loss_that_is_not_finite_names_the_round(plane):
    net = NeuralNetRegressor(
        MLP, module__n_outputs=1, optimizer=torch.optim.SGD, lr=1e30, max_epochs=3
    )
    with pytest.raises(ValueError, match="round 1, split 1 of 3: the training loss"):
        DataDropoutRegressor(net, cv=3, random_state=0).fit(*plane)
