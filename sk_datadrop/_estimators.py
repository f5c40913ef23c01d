"""The two meta-estimators, for labels and for other targets."""

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
    """Round 2 and predictions by its net, which both estimators share."""

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
        score : Measures how good predictions are.

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

        Searches and cross-validation use it by default.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...) or torch.utils.data.Dataset
            Samples of the shape seen in ``fit``.
        y : array-like of shape (n_samples,) or (n_samples, ...) or None, default=None
            Labels or targets. None uses the targets of the data set X.
        sample_weight : array-like of shape (n_samples,) or None, default=None
            Weights of the samples, for targets of at most two dimensions only.

        Returns
        -------
        float
            Accuracy for labels. If a sample has several labels, all must be right, as
            in scikit-learn. For tags and masks it is the share of right places among
            those that are not ignored. For other targets it is R2 as in scikit-learn,
            or :func:`sk_datadrop.metrics.r2_score` beyond two dimensions.

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
        Net with a module *class*, such as a :class:`skorch.NeuralNetClassifier`. It is
        cloned and never fitted itself. In round 1 the held-out samples replace its
        ``train_split``. Round 2 trains on every kept sample; ``train_split`` withholds
        some only if a callback watches a validation quantity and there is no `X_val`.
    drop_fraction : "harmful", "auto" or float in [0, 1), default="harmful"
        - "harmful": drop the samples whose `harm_probability_` is above one half. On
          clean data these are very few. If the fit could not tell, nothing is dropped,
          and a :class:`DataDropoutWarning` says why and what to do.
        - float: drop this share of the scored samples, highest chance of harm first;
          among equal chances, lowest influence first.
        - "auto": compare three choices by retraining: drop nothing, half of what
          "harmful" drops, or all of it. Each split is retrained once per non-empty
          choice and evaluated on its held-out samples, which take no part in choosing
          what that split drops. Nothing is dropped unless the best choice wins by more
          than one standard error. If "harmful" drops nothing, no split is retrained.
          It requires folds: no `X_val`, no float `cv`.
    on_harmful : {"drop", "weigh", "mend"}, default="drop"
        Treatment of harmful samples in round 2.

        - "drop": leave them out, as in the paper.
        - "weigh": draw each sample with a probability of one minus its chance of harm,
          anew in each epoch. It works with any criterion.
        - "mend": train on soft labels. The chance of harm of a label goes to the other
          classes, in proportion to how likely nets find them that did not train on the
          sample. If the criterion is not cross entropy, the most likely class is used.
          "mend" relies more on the nets, and gains more if samples are hard or few.

        "weigh" and "mend" need ``drop_fraction="harmful"``. They change nothing if the
        fit could not tell, or if no sample is more likely harmful than not.
    same_steps : bool, default=True
        Whether round 2 takes as many optimiser steps as it would on all samples. Some
        kept samples, drawn once, are then repeated. With fewer steps the net would be
        trained less, and a schedule of the learning rate would not reach its end. It
        has no effect if ``train_split`` withholds samples.
    cv : int, float, cross-validation generator or iterable, default=3
        - int: number of shuffled folds, stratified for a classifier, one split each;
        - float in (0, 1): one split with this share held out; cheaper, less reliable;
        - splitter, or iterable of (train, held-out) index arrays.
    objective : {"bounded", "loss"} or callable, default="bounded"
        Quantity measured on the held-out samples. "bounded" is one minus the
        probability of the given class (a power of it, for classes the net hardly
        knows), read from the outputs whatever the criterion is. It is averaged over the
        classes, so neither wrong labels nor frequent classes dominate, or over the
        labels, tags or pixels of a sample. "loss" is the training loss, as in the
        paper. A callable gets (outputs, y) and returns a tensor of shape (n_samples,),
        lower being better.
    engine : InfluenceFunctions or None, default=None
        Scores the samples. None uses ``InfluenceFunctions()``.
    memory : str, object with the joblib.Memory interface or None, default=None
        Folder for the trained and scored splits, and for the candidates of "auto". A
        fit that was killed, or that differs only in `drop_fraction`, reuses them
        ("auto" trains every split to the end, so it shares none with other rules).
        Requires an integer `random_state`. The key holds the samples, the parameters,
        the seed, the code of the net as Python has loaded it, and the versions of the
        libraries. Anyone who can write to the folder can execute code here.
    n_jobs : int or None, default=None
        Number of joblib worker processes. They run the splits or, with a single split,
        score its samples. The threading backend ignores it. Results are the same if
        each has as many threads; workers share the cores.
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
        Chance in [0, 1] that the sample does harm, estimated from the influence in
        other splits, the predictions and the losses; NaN for samples never scored.
    sample_weight_ : ndarray of shape (n_samples,), dtype float64
        Weight of each sample in round 2; zero if dropped.
    suggested_targets_ : ndarray of the shape of y
        The given label, or the most likely other label if the given one is more likely
        wrong than right.
    suggestion_probability_ : ndarray of shape (n_samples,), dtype float64
        Chance that the suggested label is right; with many classes per sample, that all
        of its suggested classes are.
    summary_ : str
        Summary of the fit in one line.
    warnings_ : list of str
        Message of each :class:`DataDropoutWarning` of the fit.
    influence_per_view_ : ndarray of shape (n_views, n_samples), dtype float64
        Influence by view; NaN where a view did not score the sample.
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
        "round_two", summed over the splits. `memory` keeps the times of its splits.
    classes_ : ndarray of shape (n_classes,)
        Labels. With many classes per sample: labels of one place, or columns of y.
    target_shape_ : tuple of int
        Shape of one target; only with many classes per sample.
    aim_ : Aim
        Tells how predictions are read from the outputs of the net.
    input_shape_ : tuple of int, dict, list or None
        Shape of one sample, or of each of its parts; None if samples differ in shape.
    casting_ : tuple
        Form in which the net takes X: the name of the floating dtype, whether integers
        stay integers, and whether inputs other than numbers are passed on unchanged.
    n_features_in_, feature_names_in_
        Size of the first axis of a sample, and the names of the columns if X has any.

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
        """Tell whether there is one class per sample, or a column for each label."""
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

        A ValueError is raised if the net has no probabilities.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...) or torch.utils.data.Dataset
            Samples of the shape seen in ``fit``.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), dtype float64
            Columns in the order of ``classes_``. With many classes per sample: the
            chance that each label applies, in the shape of y, or of each class, of
            shape (n_samples, n_classes, ...).

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

    Samples are tables, signals or images. Targets have the shape of the net's
    outputs: numbers, vectors, whole images (as in denoising), or probabilities.
    Predictions have the shape and the scale of the targets. See
    :class:`DataDropoutClassifier` for the method.

    Parameters
    ----------
    estimator : skorch.NeuralNet
        Net with a module *class*. It is cloned and never fitted itself.
    drop_fraction : "harmful", "auto" or float in [0, 1), default="harmful"
        Samples to drop: harmful ones, as many as retraining favours, or this share.
    on_harmful : {"drop", "weigh", "mend"}, default="drop"
        Treatment of harmful samples in round 2. "drop" and "weigh" are as in
        :class:`DataDropoutClassifier`. "mend" moves a target toward the prediction of
        nets that did not train on the sample, in proportion to its chance of harm.
    same_steps : bool, default=True
        Whether round 2 takes as many optimiser steps as it would on all samples.
    cv : int, float, cross-validation generator or iterable, default=3
        Samples that each split holds out, as in :class:`DataDropoutClassifier`.
    objective : {"bounded", "loss"} or callable, default="bounded"
        Quantity measured on the held-out samples. "bounded" is
        ``1 - exp(-loss / (2.985**2 median(loss)))``; wrong targets among the held-out
        samples cannot dominate it. "loss" is the training loss, as in the paper. A
        callable is as in :class:`DataDropoutClassifier`.
    engine, memory, n_jobs, random_state, verbose : object
        As in :class:`DataDropoutClassifier`.

    Attributes
    ----------
    target_shape_ : tuple of int
        Shape of one target.
    harm_probability_ : ndarray of shape (n_samples,), dtype float64
        Chance in [0, 1] that the sample belongs to a group of unusual ones, which a
        valley in the density of losses or influences sets apart; zero if there is no
        such group, NaN for samples never scored.
    suggested_targets_, suggestion_probability_ : ndarray of shape (n_samples, ...)
        The given target, or the prediction if the sample is more likely harmful than
        not, and the chance that it is right. If targets have many values, as images
        do, only with ``on_harmful="mend"``.
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
