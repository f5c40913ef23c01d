"""X and y may be anything that a net can be trained on, and nothing else."""

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from skorch import NeuralNetBinaryClassifier, NeuralNetRegressor
from test_plan import NoTraining

from sk_datadrop import DataDropoutClassifier, DataDropoutRegressor, DatasetRows
from sk_datadrop._inputs import check_inputs
from sk_datadrop._targets import (
    check_real_targets,
    class_targets,
    encode_labels,
    fit_labels,
)


@pytest.fixture
def untrained(classifier):
    """A classifier that may not train."""
    return DataDropoutClassifier(classifier.set_params(callbacks=[NoTraining]))


class TestX:
    @pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float16, np.float64])
    @pytest.mark.parametrize("shape", [(3, 2), (3, 1, 4), (3, 1, 2, 2)])
    def test_any_type_is_cast_and_any_shape_is_kept(self, classifier, dtype, shape):
        X = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
        checked = check_inputs(DataDropoutClassifier(classifier), X, reset=True)
        assert checked.dtype == np.float32
        np.testing.assert_array_equal(checked, X)

    def test_the_fit_sees_what_was_cast(self, classifier, blobs):
        X, y = blobs
        X = np.abs(10 * X).astype(np.uint8)
        model = DataDropoutClassifier(classifier, cv=3, random_state=0)
        reference = clone(model).fit(X.astype(np.float32), y)
        np.testing.assert_array_equal(model.fit(X, y).influence_, reference.influence_)

    def test_lists_and_frames(self, classifier, blobs):
        X, y = blobs
        model = DataDropoutClassifier(classifier, cv=3, random_state=0).fit(X, y)
        listed = clone(model).fit(X.tolist(), y.tolist())
        frame = pd.DataFrame(X, columns=list("abcd"))
        framed = clone(model).fit(frame, pd.Series(y))
        np.testing.assert_array_equal(model.influence_, listed.influence_)
        np.testing.assert_array_equal(model.influence_, framed.influence_)
        assert list(framed.feature_names_in_) == list("abcd")

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_values_that_are_no_numbers(self, untrained, blobs, value):
        X = blobs[0].astype(np.float64)
        X[3, 1] = value
        with pytest.raises(ValueError, match="X contains (NaN|infinity)"):
            untrained.fit(X, blobs[1])

    @pytest.mark.parametrize("n_samples", [0, 1])
    @pytest.mark.parametrize("is_lazy", [False, True])
    def test_too_few_samples(self, untrained, blobs, n_samples, is_lazy):
        X, y = blobs
        X = (DatasetRows(list(zip(X, y, strict=True))) if is_lazy else X)[:n_samples]
        with pytest.raises(ValueError, match=rf"with {n_samples} sample\(s\)"):
            check_inputs(untrained, X, reset=True)
        if n_samples == 1:
            untrained.n_features_in_ = 4
            assert len(check_inputs(untrained, X, reset=False)) == 1

    def test_samples_of_another_shape(self, untrained):
        X = np.zeros((2, 4, 3))
        assert check_inputs(untrained, X, reset=True, shape=(4, 3)).shape == X.shape
        message = r"samples of shape \(4, 2\), but DataDropoutClassifier was fitted"
        with pytest.raises(ValueError, match=message):
            check_inputs(untrained, X[:, :, :2], reset=False, shape=(4, 3))

    def test_X_val_of_another_shape(self, untrained, blobs):
        X, y = blobs
        with pytest.raises(ValueError, match="X_val: .*3 features, but .* expecting 4"):
            untrained.fit(X, y, X_val=X[:, :3], y_val=y)


class TestLabels:
    @pytest.mark.parametrize("names", [["a", "b", "c"], [10, 20, 30], [2.0, 1.0, 3.0]])
    def test_any_type_is_encoded_in_the_order_of_the_classes(self, names):
        labels = [names[1], names[0], names[1]]
        encoder = fit_labels(names)
        codes = encode_labels(encoder, labels, "y")
        assert encoder.classes_.tolist() == sorted(names)
        assert encoder.classes_[codes].tolist() == labels
        assert codes.dtype == np.int64

    def test_they_have_the_dtype_that_the_criterion_takes(self, classifier):
        codes = np.array([0, 1])
        assert class_targets(classifier, codes).dtype == np.int64
        binary = NeuralNetBinaryClassifier(classifier.module)
        assert class_targets(binary, codes).dtype == np.float32

    def test_one_class(self, untrained, blobs):
        message = "at least two classes in y; got one class: 1"
        with pytest.raises(ValueError, match=message):
            untrained.fit(blobs[0], np.ones(90, dtype=int))

    def test_numbers_that_are_no_classes(self, untrained, plane):
        with pytest.raises(ValueError, match="Unknown label type"):
            untrained.fit(*plane)

    def test_label_of_y_val_that_y_does_not_hold(self, untrained, blobs):
        X, y = blobs
        message = "y_val holds a label that is not among the classes of y: .*7"
        with pytest.raises(ValueError, match=message):
            untrained.fit(X, y, X_val=X, y_val=np.where(y, y, 7))

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_values_that_are_no_labels(self, untrained, blobs, value):
        X, y = blobs
        y = y.astype(float)
        y[0] = value
        with pytest.raises(ValueError, match="y contains (NaN|infinity)"):
            untrained.fit(X, y)


class TestRealTargets:
    @pytest.mark.parametrize("dtype", [np.int64, np.float16, np.float64])
    @pytest.mark.parametrize("shape", [(3,), (3, 2), (3, 1, 2, 2)])
    def test_any_shape_is_kept_and_any_type_is_cast(self, dtype, shape):
        y = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
        checked = check_real_targets(None, y)
        assert checked.dtype == np.float32
        np.testing.assert_array_equal(checked, y)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_values_that_are_no_numbers(self, regressor, plane, value):
        X, y = plane
        y = y.astype(np.float64)
        y[0] = value
        regressor.set_params(callbacks=[NoTraining])
        with pytest.raises(ValueError, match="y contains (NaN|infinity)"):
            DataDropoutRegressor(regressor).fit(X, y)


def test_read_only_arrays_are_copied_for_torch(classifier, blobs):
    X, y = blobs
    X.setflags(write=False)
    y.setflags(write=False)
    model = DataDropoutClassifier(classifier)
    checked = check_inputs(model, X, reset=True)
    assert checked.flags.writeable
    assert not np.shares_memory(checked, X)
    assert check_real_targets(X, X).flags.writeable


def test_arrays_as_a_net_takes_them_are_not_copied(regressor, plane):
    model = DataDropoutRegressor(regressor)
    assert check_inputs(model, plane[0], reset=True) is plane[0]
    assert check_real_targets(*plane) is plane[1]


@pytest.mark.parametrize("kind", [DataDropoutClassifier, DataDropoutRegressor])
def test_samples_of_another_shape_in_predict(kind, classifier, plane):
    X, y = plane
    if kind is DataDropoutRegressor:
        net = NeuralNetRegressor(classifier.module, module__n_outputs=1, max_epochs=1)
    else:
        net, y = classifier.set_params(module__n_outputs=2, max_epochs=1), y > 0
    model = kind(net, cv=2, random_state=0).fit(X, y)
    message = r"samples of shape \(4, 1\), but .* was fitted on samples of shape \(4,\)"
    with pytest.raises(ValueError, match=message):
        model.predict(X[:, :, None])
