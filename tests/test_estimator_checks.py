"""The checks that scikit-learn and imbalanced-learn have for estimators, all strict."""

import os
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.utils.estimator_checks import estimator_checks_generator
from skorch import NeuralNetClassifier, NeuralNetRegressor
from skorch.callbacks import Callback
from torch import nn

from sk_datadrop import (
    DataDropoutClassifier,
    DataDropoutRegressor,
    DataDropoutSampler,
    DataDropoutTransformer,
    InfluenceFunctions,
)


class LazyMLP(nn.Module):
    """A module for samples of any length and numbers of any size.

    In double precision, since the checks ask for predictions that are the same to
    seven digits whether samples come alone or together.
    """

    def __init__(self, n_outputs=1):
        super().__init__()
        self.first = nn.LazyLinear(8, dtype=torch.float64)
        self.second = nn.Linear(8, n_outputs, dtype=torch.float64)

    def forward(self, X):
        return self.second(torch.tanh(self.first(torch.asinh(X.double()))))


class MeanSquares(nn.MSELoss):
    """Squares of outputs in double precision and targets in single.

    torch 2.6 has them forwards, but not backwards.
    """

    def forward(self, outputs, y):
        return super().forward(outputs, y.to(outputs.dtype))


class SizeByTargets(Callback):
    """Gives the net an output for each class, or for each target."""

    def on_train_begin(self, net, X=None, y=None, **kwargs):
        is_classifier = isinstance(net, NeuralNetClassifier)
        n_outputs = len(np.unique(y)) if is_classifier else y[0].size
        net.set_params(module__n_outputs=n_outputs)


def lazy(kind, **parameters):
    return kind(
        LazyMLP,
        optimizer=torch.optim.Adam,
        lr=0.2,
        max_epochs=2,
        batch_size=64,
        callbacks=[SizeByTargets],
        **parameters,
    )


def largest_score(outputs, y):
    return -outputs.gather(1, y[:, None])[:, 0]


def absolute_error(outputs, y):
    return (outputs - y).abs().flatten(1).sum(1)


CLASSIFIER = lazy(NeuralNetClassifier, criterion=nn.CrossEntropyLoss)
REGRESSOR = lazy(NeuralNetRegressor, criterion=MeanSquares)
# One group of held-out samples is quicker than the eight of engine=None.
QUICK = {"cv": 2, "engine": InfluenceFunctions(n_groups=1), "random_state": 0}
DEFAULTS = {
    "classifier": DataDropoutClassifier(CLASSIFIER, **QUICK),
    "regressor": DataDropoutRegressor(REGRESSOR, **QUICK),
    "transformer": DataDropoutTransformer(REGRESSOR, **QUICK),
    "sampler": DataDropoutSampler(CLASSIFIER, **QUICK),
}
SHARE = QUICK | {"cv": 0.5, "drop_fraction": 0.1}
VARIANTS = {
    "classifier, eight groups": DataDropoutClassifier(
        CLASSIFIER, **QUICK | {"engine": None}
    ),
    "classifier of a share": DataDropoutClassifier(CLASSIFIER, **SHARE),
    "classifier, loss": DataDropoutClassifier(CLASSIFIER, objective="loss", **QUICK),
    "classifier, callable": DataDropoutClassifier(
        CLASSIFIER, objective=largest_score, **QUICK
    ),
    "regressor of a share": DataDropoutRegressor(REGRESSOR, **SHARE),
    "regressor, loss": DataDropoutRegressor(REGRESSOR, objective="loss", **QUICK),
    "regressor, callable": DataDropoutRegressor(
        REGRESSOR, objective=absolute_error, **QUICK
    ),
    "regressor, checkpoints": DataDropoutRegressor(
        REGRESSOR,
        **QUICK | {"engine": InfluenceFunctions(n_checkpoints=3, n_groups=1)},
    ),
    "transformer of a share": DataDropoutTransformer(CLASSIFIER, **SHARE),
    "sampler of a share": DataDropoutSampler(REGRESSOR, **SHARE),
}
# Those in which a setting may matter: they fit twice, or odd data, or pickle.
ABOUT_SETTINGS = {
    "check_classifiers_train",
    "check_dict_unchanged",
    "check_dont_overwrite_parameters",
    "check_estimators_overwrite_params",
    "check_estimators_pickle",
    "check_fit2d_1feature",
    "check_fit2d_1sample",
    "check_fit_idempotent",
    "check_methods_subset_invariance",
    "check_readonly_memmap_input",
    "check_regressors_train",
    "check_transformer_general",
}


def name_of(check):
    if not isinstance(check, partial):
        return check.__name__
    options = [f"{name}={value}" for name, value in check.keywords.items()]
    return "-".join([name_of(check.func), *options])


def checks(estimators, names=None):
    return [
        pytest.param(instance, check, id=f"{label}-{name_of(check)}")
        for label, estimator in estimators.items()
        for instance, check in estimator_checks_generator(estimator)
        if names is None or name_of(check) in names
    ]


@pytest.mark.parametrize(("estimator", "check"), checks(DEFAULTS))
def test_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.parametrize(("estimator", "check"), checks(VARIANTS, names=ABOUT_SETTINGS))
def test_scikit_learn_with_other_settings(estimator, check):
    check(estimator)


@pytest.mark.skipif(
    not any("array_api" in check.id for check in checks(DEFAULTS)),
    reason="older than the checks",
)
def test_scikit_learn_with_array_api():
    """The checks that are skipped unless scipy dispatches on array types."""
    command = [sys.executable, "-m", "pytest", f"{__file__}::test_scikit_learn"]
    run = subprocess.run(
        [*command, "-k", "array_api", "-ra"],
        env=os.environ | {"SCIPY_ARRAY_API": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout
    assert "SKIPPED" not in run.stdout


@pytest.mark.filterwarnings("ignore:A column-vector y was passed")
@pytest.mark.parametrize(
    "name",
    [
        "check_target_type",
        "check_samplers_one_label",
        "check_samplers_fit_resample",
        "check_samplers_pandas",
        "check_samplers_list",
        "check_samplers_preserve_dtype",
        "check_samplers_2d_target",
        "check_sampler_get_feature_names_out",
        "check_sampler_get_feature_names_out_pandas",
        "check_dataframe_column_names_consistency",
    ],
)
def test_imbalanced_learn(name):
    """All but the checks of ratios between classes, sparse samples and its own tags."""
    from imblearn.utils import estimator_checks

    sampler = DataDropoutSampler(CLASSIFIER, **QUICK)
    getattr(estimator_checks, name)("DataDropoutSampler", sampler)
