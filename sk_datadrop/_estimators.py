"""The meta-estimators: what is special about labels, and about other targets."""

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils.validation import check_is_fitted
from skorch import NeuralNet

from sk_datadrop._base import BaseDataDropout
from sk_datadrop._engine import Engine
from sk_datadrop._objective import Kind
from sk_datadrop._predictions import (
    accuracy_of_places,
    predict_codes,
    predict_proba,
    predict_real,
)
from sk_datadrop.metrics import r2_score


class _RoundTwoMixin:
    """How round 2 trains, and predictions by its net: what both estimators share."""

    estimator_: NeuralNet
    _is_classification: ClassVar[bool | None]
    _check_X: Callable[[Any], Any]
    _with_own_targets: Callable[[Any, Any], tuple[Any, Any]]
    _predict: Callable[[Any], np.ndarray]
    _is_for_scikit_learn: Callable[[Any], bool]
    _score: Callable[[np.ndarray, np.ndarray], float]

    def __init__(
        self,
        estimator: NeuralNet,
        *,
        drop_fraction: str | float = "harmful",
        on_harmful: str = "drop",
        same_steps: bool = True,
        cv: Any = 3,
        objective: Kind = "bounded",
        engine: Engine | None = None,
        memory: Any = None,
        n_jobs: int | None = None,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(  # type: ignore[call-arg]
            estimator,
            drop_fraction=drop_fraction,
            cv=cv,
            objective=objective,
            engine=engine,
            memory=memory,
            n_jobs=n_jobs,
            random_state=random_state,
            verbose=verbose,
        )
        self.on_harmful = on_harmful
        self.same_steps = same_steps

    def predict(self, X: Any) -> np.ndarray:
        """Predict labels or targets with the net of round 2.

        The nets of round 1 take no part in it.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...) or torch.utils.data.Dataset
            Samples of the shape seen in ``fit``.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, ...)
            Labels as in ``classes_``, or targets: images in float32, others in float64.

        See Also
        --------
        score : Tells how good predictions are.

        Examples
        --------
        >>> from skorch import NeuralNetRegressor
        >>> from torch.nn import LazyLinear
        >>> from sk_datadrop import DataDropoutRegressor
        >>> X, y = [[-1.0], [1.0]] * 30, [-2.0, 2.0] * 30
        >>> net = NeuralNetRegressor(LazyLinear, module__out_features=1, lr=0.1)
        >>> DataDropoutRegressor(net, cv=2).fit(X, y).predict([[3.0]]).shape
        (1,)
        """
        check_is_fitted(self, "estimator_")
        return self._predict(self._check_X(X))

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Return the accuracy, or the coefficient of determination of a regressor.

        Searches and cross-validation use it unless told otherwise.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...) or torch.utils.data.Dataset
            Samples of the shape seen in ``fit``.
        y : array-like of shape (n_samples,) or (n_samples, ...) or None, default=None
            Labels or targets. None uses those of the data set X.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            Weights of the samples, for targets of at most two dimensions only.

        Returns
        -------
        float
            Accuracy for labels: of several per sample as in scikit-learn, all must be
            right; of tags and masks it is the share of the places that are not ignored.
            For other targets R2 as in scikit-learn, or beyond two dimensions
            :func:`sk_datadrop.metrics.r2_score`.

        See Also
        --------
        sk_datadrop.metrics.r2_score : For targets of more than two dimensions.

        Examples
        --------
        >>> from skorch import NeuralNetRegressor
        >>> from torch.nn import LazyLinear
        >>> from sk_datadrop import DataDropoutRegressor
        >>> X, y = [[-1.0], [1.0]] * 30, [-2.0, 2.0] * 30
        >>> net = NeuralNetRegressor(LazyLinear, module__out_features=1, lr=0.1)
        >>> bool(DataDropoutRegressor(net, cv=2).fit(X, y).score(X, y) > 0.5)
        True
        """
        check_is_fitted(self, "estimator_")
        X, y = self._with_own_targets(X, y)
        if self._is_for_scikit_learn(y):
            return float(super().score(X, y, sample_weight))  # type: ignore[misc]
        if sample_weight is not None:
            raise ValueError(
                "sample_weight is not supported for targets of more than two "
                f"dimensions; got y of shape {np.shape(y)}. Leave it out."
            )
        return self._score(np.asarray(y), self.predict(X))


class DataDropoutClassifier(_RoundTwoMixin, ClassifierMixin, BaseDataDropout):
    """Drop the training samples that hurt a classifier, and retrain it from scratch.

    Round 1 trains clones of the net on parts of the data. Every sample is scored by
    its influence on the samples held out: the predicted increase of the held-out
    objective if the sample were removed. Samples that are more likely harmful than not
    are dropped. Round 2 trains on the rest, from scratch, with identical settings. The
    method is Data Dropout (Wang, Huan, Li 2018, arXiv:1809.00193) with the influence
    functions of Koh, Liang (2017, arXiv:1703.04730).

    Parameters
    ----------
    estimator : skorch.NeuralNet
        Net with a module *class*, such as a :class:`skorch.NeuralNetClassifier`;
        cloned, never fitted itself. In round 1 the held-out samples replace its
        ``train_split``. Round 2 trains on every kept sample; ``train_split`` withholds
        some only if a callback watches a validation quantity and there is no `X_val`.
    drop_fraction : "harmful", "auto" or float in [0, 1), default="harmful"
        - "harmful": drop the samples whose `harm_probability_` is above one half. On
          clean data that is next to none, and none where the fit could not tell, of
          which a :class:`DataDropoutWarning` says why and what to do.
        - float: drop this share of the scored samples, highest chance of harm first,
          and of equal ones lowest influence first.
        - "auto": compare three choices by retraining: drop nothing, half of what
          "harmful" drops, or all of it. Each split is retrained once per non-empty
          choice and evaluated on its held-out samples, which take no part in choosing
          what that split drops. Nothing is dropped unless the best choice wins by more
          than one standard error. Where "harmful" drops nothing, nothing is trained.
          Requires folds: no `X_val`, no float `cv`.
    on_harmful : {"drop", "weigh", "mend"}, default="drop"
        What becomes of harmful samples in round 2.

        - "drop": they are left out, as in the paper.
        - "weigh": every sample counts by one minus its chance of harm, by being drawn
          that often, anew in each epoch. Any criterion will do.
        - "mend": labels give their chance of harm to the other classes, by how likely
          these are for nets that did not train on the sample; with another criterion
          than cross entropy the most likely class is taken. Needs more trust in the
          nets, and gives more where samples are hard or few.

        Both need ``drop_fraction="harmful"``. Where the fit could not tell, and where
        no sample is more likely harmful than not, they do nothing.
    same_steps : bool, default=True
        Whether round 2 takes as many optimiser steps as on all samples, by repeats of
        samples drawn once from those kept. Fewer samples at the same number of epochs
        would train it less, and not fill its schedule of the learning rate. Not where
        ``train_split`` withholds some of them.
    cv : int, float, cross-validation generator or iterable, default=3
        - int: number of shuffled folds, stratified for a classifier, one split each;
        - float in (0, 1): one split with this share held out, cheaper, more cautious;
        - splitter, or iterable of (train, held-out) index arrays.
    objective : {"bounded", "loss"} or callable, default="bounded"
        Quantity measured on the held-out samples. "bounded" is one minus the
        probability of the given class (a power of it, for classes the net hardly
        knows), as the outputs have it, whatever the criterion; averaged over the
        classes, so that neither wrong labels nor frequent classes dominate, or over the
        labels, tags or pixels of a sample. "loss" is the training loss, as in the
        paper. A callable gets (outputs, y) and returns a tensor of shape (n_samples,),
        lower being better.
    engine : InfluenceFunctions or None, default=None
        How samples are scored. None uses ``InfluenceFunctions()``.
    memory : str, object with the joblib.Memory interface or None, default=None
        Folder for the splits, trained and scored, and the candidates of "auto", so that
        a fit that differs in `drop_fraction` only, or was killed, does not repeat them
        ("auto" trains to the end, and shares none with the other rules).
        Requires an integer `random_state`. The key holds the samples, the parameters,
        the seed, the code of the net as Python has loaded it, and the versions of the
        libraries. Whoever can write there can execute code here.
    n_jobs : int or None, default=None
        Number of joblib worker processes, for splits or, with a single one, for scoring
        its samples. Ignored by the threading backend. Does not change the result.
    random_state : int, RandomState instance or None, default=None
        Seeds the splits, the initial weights and the order of the batches; global
        generators are left untouched. An int is torch's seed itself: with nothing
        dropped, round 2 equals ``torch.manual_seed(random_state)`` and fitting the net
        with ``train_split=None``. The trainings of round 1 use seeds derived from it.
        None draws the seed from torch's global generator.
    verbose : int, default=0
        1 shows one progress bar over all trainings, with the epoch and the time left,
        and prints `summary_` and the seconds at the end; 2 and more also the net's own
        table. With worker processes the bar moves by the split, not by the epoch.

    Attributes
    ----------
    estimator_ : skorch.NeuralNet
        Net of round 2.
    round_one_estimators_ : list of skorch.NeuralNet
        Nets of round 1, one per split.
    influence_ : ndarray of shape (n_samples,), dtype float64
        Mean influence over the views, in units of the objective. Positive is helpful,
        negative harmful. NaN for samples never scored.
    harm_probability_ : ndarray of shape (n_samples,), dtype float64
        Chance in [0, 1] that the sample does harm, from influence by the other splits,
        predictions and losses; NaN for samples never scored.
    sample_weight_ : ndarray of shape (n_samples,), dtype float64
        How much each sample counts in round 2: zero where dropped.
    suggested_targets_ : ndarray of the shape of y
        The given label, or the most likely other one where it is more likely wrong
        than right.
    suggestion_probability_ : ndarray of shape (n_samples,), dtype float64
        Chance that the suggested label is right; with many classes per sample, that all
        of its suggested classes are.
    summary_ : str
        The fit in one line.
    warnings_ : list of str
        What the fit could not know, as each :class:`DataDropoutWarning` said.
    influence_per_view_ : ndarray of shape (n_views, n_samples), dtype float64
        Influence by view; held-out samples are scored by other ones, or NaN.
    views_ : list of View
        Split, epoch and held-out group of each view.
    sample_mask_, sample_indices_ : ndarray of shape (n_samples,) and (n_kept,)
        True where the sample was kept, and the positions of those.
    n_dropped_, drop_fraction_ : int and float
        Number of samples dropped, and their share of the scored samples.
    drop_rate_per_class_ : ndarray of shape (n_classes,), dtype float64
        Share of each class that was dropped. Not with many classes per sample.
    solver_results_ : list of SolverResult
        One per split and checkpoint.
    cv_results_ : dict of str to ndarray
        With "auto" only: "drop_fraction" of shape (n_fractions,), and "objective" of
        shape (n_splits, n_fractions) on the held-out samples, lower being better.
    timings_ : dict of str to float
        Seconds of work in "round_one", "scoring", "candidates" ("auto" only) and
        "round_two", summed over the splits. `memory` also gives back times.
    classes_ : ndarray of shape (n_classes,)
        Labels. With many classes per sample those of a place, or the columns of y.
    target_shape_ : tuple of int
        Shape of one target, with many classes per sample only.
    aim_ : Aim
        How predictions are read from the outputs of the net.
    input_shape_ : tuple of int, dict, list or None
        Shape of one sample: of each part, if it has several, and None where samples
        differ.
    casting_ : tuple
        How the net takes X: the name of the floating dtype, whether integers stay
        integers, and whether what is no number is handed over as it is.
    n_features_in_, feature_names_in_
        Size of its first axis, and the names of the columns if X had any.

    See Also
    --------
    DataDropoutRegressor : The same for targets of any shape.

    Examples
    --------
    >>> import torch
    >>> from sklearn.datasets import load_digits
    >>> from skorch import NeuralNetClassifier
    >>> from sk_datadrop import DataDropoutClassifier
    >>> from sk_datadrop.datasets import flip_labels
    >>> from sk_datadrop.nets import SmallCNN
    >>> digits = load_digits()
    >>> X = digits.images[:, None] / 16
    >>> y, flipped = flip_labels(digits.target, 0.2, random_state=0)
    >>> net = NeuralNetClassifier(
    ...     SmallCNN, criterion=torch.nn.CrossEntropyLoss,
    ...     optimizer=torch.optim.Adam, lr=0.003, batch_size=64,
    ... )
    >>> model = DataDropoutClassifier(net, cv=3, random_state=0).fit(X, y)
    >>> bool(flipped[~model.sample_mask_].mean() > 0.8)
    True
    """

    _is_classification: ClassVar[bool | None] = True
    classes_: np.ndarray

    def _predict(self, X: Any) -> np.ndarray:
        codes = predict_codes(self.estimator_, X, self.aim_)
        return codes if self.aim_.shape is not None else self.classes_[codes]

    def _is_for_scikit_learn(self, y: Any) -> bool:
        """Whether there is one class per sample, or a column for each label."""
        if self.aim_.shape is None or np.ndim(y) < 2:
            return True
        reading = self.aim_.reading
        if reading is None or not reading.is_binary or np.ndim(y) > 2:
            return False
        return bool(np.isin(np.asarray(y), (reading.first, 1)).all())

    def _score(self, y: np.ndarray, predicted: np.ndarray) -> float:
        reading = self.aim_.reading
        ignored = None if reading is None else reading.ignored
        return accuracy_of_places(y, predicted, ignored)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Predict class probabilities with the net of round 2.

        They are in double precision. A net without probabilities raises a ValueError.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...) or torch.utils.data.Dataset
            Samples of the shape seen in ``fit``.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), dtype float64
            Columns in the order of ``classes_``. With many classes per sample, that
            each label applies, in the shape of y, or (n_samples, n_classes, ...).

        See Also
        --------
        predict : The most probable label.

        Examples
        --------
        >>> from skorch import NeuralNetBinaryClassifier
        >>> from torch.nn import LazyLinear
        >>> from sk_datadrop import DataDropoutClassifier
        >>> X, y = [[-1.0], [1.0]] * 20, ["left", "right"] * 20
        >>> net = NeuralNetBinaryClassifier(LazyLinear, module__out_features=1, lr=1.0)
        >>> DataDropoutClassifier(net, cv=2).fit(X, y).predict_proba([[3.0]]).shape
        (1, 2)
        """
        check_is_fitted(self, "estimator_")
        return predict_proba(self.estimator_, self._check_X(X), self.aim_)


class DataDropoutRegressor(_RoundTwoMixin, RegressorMixin, BaseDataDropout):
    """Drop the training samples that hurt a regressor, and retrain it from scratch.

    For tables, signals and images, with targets of the shape of the net's
    outputs: numbers, vectors, whole images as in denoising, or probabilities.
    Predictions have the shape and the scale of the targets. See
    :class:`DataDropoutClassifier` for the method.

    Parameters
    ----------
    estimator : skorch.NeuralNet
        Net with a module *class*, cloned and never fitted itself.
    drop_fraction : "harmful", "auto" or float in [0, 1), default="harmful"
        Which samples to drop: harmful ones, as many as retraining favours, or a share.
    on_harmful : {"drop", "weigh", "mend"}, default="drop"
        What becomes of harmful samples in round 2: "drop" and "weigh" as in
        :class:`DataDropoutClassifier`; "mend" moves a target toward what nets predict
        that did not train on the sample, by its chance of harm.
    same_steps : bool, default=True
        Whether round 2 takes as many optimiser steps as on all samples.
    cv : int, float, cross-validation generator or iterable, default=3
        Which samples each split holds out.
    objective : {"bounded", "loss"} or callable, default="bounded"
        Quantity measured on the held-out samples. "bounded" is
        ``1 - exp(-loss / (2.985**2 median(loss)))``, which spoiled targets among the
        held-out samples cannot dominate; "loss" is the training loss, as in the
        paper; a callable is as in :class:`DataDropoutClassifier`.
    engine, memory, n_jobs, random_state, verbose : object
        As in :class:`DataDropoutClassifier`.

    Attributes
    ----------
    target_shape_ : tuple of int
        Shape of one target.
    harm_probability_ : ndarray of shape (n_samples,), dtype float64
        Chance in [0, 1] that the sample is of another kind, by a valley in the density
        of losses or influences; zero where there is none, NaN where not scored.
    suggested_targets_, suggestion_probability_ : ndarray of shape (n_samples, ...)
        The given target, or the prediction where it is more likely of another kind
        than not, and how sure that is. Of targets of many values, such as images, only
        with ``on_harmful="mend"``.
    estimator_, round_one_estimators_, influence_, influence_per_view_, views_, \
            summary_, warnings_, sample_weight_, sample_mask_, sample_indices_, \
            n_dropped_, drop_fraction_, cv_results_, solver_results_, timings_, \
            input_shape_, aim_, casting_, n_features_in_, feature_names_in_
        As in :class:`DataDropoutClassifier`.

    See Also
    --------
    DataDropoutClassifier : The same for labels.

    Examples
    --------
    >>> from sklearn.datasets import make_regression
    >>> from skorch import NeuralNetRegressor
    >>> from torch.nn import LazyLinear
    >>> from sk_datadrop import DataDropoutRegressor
    >>> X, y = make_regression(200, 3, random_state=0)
    >>> y[:20] += 500
    >>> net = NeuralNetRegressor(LazyLinear, module__out_features=1, lr=0.1)
    >>> model = DataDropoutRegressor(net, random_state=0).fit(X, y)
    >>> int((~model.sample_mask_[:20]).sum())
    20
    """

    _is_classification: ClassVar[bool | None] = False
    target_shape_: tuple[int, ...]

    def _predict(self, X: Any) -> np.ndarray:
        predicted = predict_real(self.estimator_, X, self.aim_)
        return predicted if predicted.ndim > 2 else predicted.astype(np.float64)

    def _is_for_scikit_learn(self, y: Any) -> bool:
        return np.ndim(y) <= 2

    def _score(self, y: np.ndarray, predicted: np.ndarray) -> float:
        return r2_score(y, predicted)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
