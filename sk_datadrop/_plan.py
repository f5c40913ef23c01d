"""From the arguments of ``fit`` to a plan: everything checked, and nothing trained."""

import warnings
from dataclasses import dataclass, replace
from functools import partial
from numbers import Integral
from typing import Any, Literal

import numpy as np
import torch
from sklearn import get_config
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.pipeline import Pipeline
from sklearn.utils import check_consistent_length, check_random_state
from sklearn.utils.metadata_routing import process_routing
from skorch import NeuralNet

from sk_datadrop._cache import Cache, Key, cache_key
from sk_datadrop._callbacks import check_callbacks, needs_validation
from sk_datadrop._casting import Casting
from sk_datadrop._drop import (
    as_many_rows,
    check_drop_fraction,
    check_on_harmful,
)
from sk_datadrop._engine import Engine, check_engine, check_net
from sk_datadrop._influence import InfluenceFunctions
from sk_datadrop._inputs import check_inputs, warn_of_inputs, with_targets_given
from sk_datadrop._lazy import shape_of
from sk_datadrop._objective import Kind, check_objective
from sk_datadrop._parallel import check_travels, n_processes
from sk_datadrop._predictions import Aim
from sk_datadrop._ranks import device_of, from_first_process, has_ranks
from sk_datadrop._reading import Reading
from sk_datadrop._rereading import check_lengths
from sk_datadrop._samples import Samples
from sk_datadrop._splits import Split, check_candidate_splits, held_out_splits
from sk_datadrop._targets import (
    fit_labels,
    matched,
    probed,
    samples_of,
    takes_places,
)
from sk_datadrop._training import Recipe, prefix_errors, seeded
from sk_datadrop._weighing import check_samplers


@dataclass(frozen=True)
class Plan:
    """A fit to be: everything checked, and nothing trained.

    Attributes
    ----------
    net : skorch.NeuralNet
        Cloned for every training, never fitted.
    validation : Samples or None
        Held-out samples that were given; None holds some out in each split.
    refit_validation : Samples, None or "own"
        Samples for the validation phase of round 2, see `train`.
    seed : int
        Seed of round 2 and of the first split. The others are derived from it.
    classes : ndarray of shape (n_classes,) or None
        Labels; None for a regressor, and with many classes per sample.
    is_classification : bool
        Whether targets are classes, one per sample or many.
    target_shape : tuple of int
        Shape of one target as it was given.
    reading : Reading or None
        How chances of classes are read from the outputs; None if targets are none.
    is_picked : bool
        Whether ``get_loss`` picks what the criterion is given among the outputs.
    key : dict
        Everything that all results depend on, if there is a cache.
    ends_early : bool
        Whether trainings of round 1 stop once their best epoch has surely passed.
    same_steps : bool
        Whether a training on fewer samples takes as many optimiser steps.
    notes : list of str
        What was warned of before any training.
    casting : Casting
        The dtypes in which the net takes the inputs.
    """

    net: NeuralNet
    samples: Samples
    validation: Samples | None
    refit_validation: Samples | Literal["own"] | None
    splits: list[Split]
    engine: Engine
    objective: Kind
    seed: int
    fit_params: dict[str, Any]
    classes: np.ndarray | None
    is_classification: bool
    target_shape: tuple[int, ...]
    reading: Reading | None
    is_picked: bool
    cache: Cache | None
    key: Key
    n_jobs: int | None
    verbose: int
    ends_early: bool
    same_steps: bool
    notes: list[str]
    casting: Casting

    @property
    def aim(self) -> Aim:
        """The kind of target that nets are trained to predict."""
        shape = self.target_shape if self.classes is None else None
        like = np.zeros(self.samples.y.shape[1:], dtype=self.samples.y.dtype)
        return Aim(self.reading, like, shape, self.is_picked)

    def held_out(self, number: int) -> Samples:
        """Return the samples that a split is measured on."""
        if self.validation is not None:
            return self.validation
        return self.samples[self.splits[number].held_out]

    def recipe(
        self,
        name: str,
        indices: np.ndarray,
        number: int = 0,
        *,
        keeps_files: bool = False,
    ) -> Recipe:
        """Return how to train on some of the samples, as in the split of this number.

        Every split starts from other initial weights: that they agree is the evidence.
        """
        seed = derived_seed(self.seed, number) if number else self.seed
        fit_params = {
            key: cut(value, indices, len(self.samples))
            for key, value in self.fit_params.items()
        }
        verbose = max(int(self.verbose) - 1, 0)
        return Recipe(name, seed, fit_params, verbose, keeps_files)

    def rows_to_train(self, kept: np.ndarray, n_rows: int) -> np.ndarray:
        """Return the positions to train on instead of `n_rows` samples.

        Those kept, and as many repeats as make up for the others, if wanted. Where the
        net withholds some of them itself, a repeat could be on both sides.
        """
        if not self.same_steps or self.refit_validation == "own":
            return kept
        return as_many_rows(kept, n_rows, np.random.default_rng(self.seed))

    def for_worker(self, number: int) -> "Plan":
        """Return what the work on one split needs, besides the samples."""
        none = Split(np.arange(0), np.arange(0))
        splits = [s if n == number else none for n, s in enumerate(self.splits)]
        return replace(
            self,
            # As fitted, skorch would pickle it by names that workers do not know yet.
            net=clone(self.net),
            samples=Samples(None, None),
            refit_validation=None,
            splits=splits,
            cache=None,
        )


def make_plan(
    owner: Any,
    X: Any,
    y: Any,
    X_val: Any,
    y_val: Any,
    params: dict[str, Any],
    *,
    is_classification: bool | None = None,
) -> Plan:
    """Check everything that can be checked before the first training.

    The owner has the parameters and learns the number and names of the features; all
    other arguments are those of ``fit``. Where `is_classification` is None, the net
    tells whether targets are classes.
    """
    engine, net = _check_parameters(owner), owner.estimator
    fit_params, split_params = _route(owner, params)
    if is_classification is None:
        is_classification = takes_classes(net, y)
    samples, validation, classes = _check_data(
        owner, X, y, X_val, y_val, is_classification
    )
    target_shape = samples.y.shape[1:]
    seed = from_first_process(_draw_seed(owner.random_state), net)
    check = partial(check_net, engine)
    probe, samples = probed(net, samples, check, classes, seed, is_classification)
    validation = validation and matched(validation, probe, samples, "_val")
    splits = _splits(owner, samples, validation, classes, seed, split_params)
    plan = Plan(
        net=net,
        samples=samples,
        validation=validation,
        refit_validation=_validation_of_refit(owner, probe.net, samples, validation),
        splits=splits,
        engine=engine,
        objective=owner.objective,
        seed=seed,
        fit_params=fit_params,
        classes=classes,
        is_classification=is_classification,
        target_shape=target_shape,
        reading=probe.reading,
        is_picked=probe.is_picked,
        cache=None,
        key={},
        n_jobs=owner.n_jobs,
        verbose=owner.verbose,
        # "auto" compares the nets of round 1, and trains others as long.
        ends_early=owner.drop_fraction != "auto",
        notes=warn_of_inputs(net, X, samples, validation, probe.casting, seed),
        casting=probe.casting,
        same_steps=getattr(owner, "same_steps", True),
    )
    return plan if owner.memory is None else _with_cache(plan, owner, probe.net)


def takes_classes(net: NeuralNet, y: Any = None) -> bool:
    """Tell whether the targets of a net are classes.

    A net that scikit-learn considers a classifier or a regressor is one; of others the
    criterion decides, and if that is the user's, whether targets are real numbers.
    """
    if is_classifier(net) or is_regressor(net):
        return bool(is_classifier(net))
    kind = net.criterion if isinstance(net.criterion, type) else type(net.criterion)
    of_one = torch.nn.CrossEntropyLoss | torch.nn.NLLLoss | torch.nn.MultiMarginLoss
    if issubclass(kind, of_one) or kind.__module__.startswith("torch.") or y is None:
        return issubclass(kind, of_one)
    return np.asarray(y[:1]).dtype.kind != "f"


def cut(value: Any, indices: np.ndarray, n_samples: int) -> Any:
    """Cut an array with one entry per sample; leave all else alone."""
    if not hasattr(value, "__len__") or isinstance(value, str | dict):
        return value
    return np.asarray(value)[indices] if len(value) == n_samples else value


def derived_seed(seed: int, *key: int) -> int:
    """Return another seed, independent of the first and of other uses of it."""
    return int(np.random.SeedSequence([seed, *key]).generate_state(1)[0])


def _draw_seed(random_state: Any) -> int:
    """Draw one seed for all trainings of a fit; an integer is used as it is."""
    if random_state is None:
        return int(torch.randint(2**31 - 1, ()))
    if isinstance(random_state, Integral) and 0 <= int(random_state) < 2**32:
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))


def _check_parameters(owner: Any) -> Engine:
    net, given = owner.estimator, owner.engine
    if not isinstance(net, NeuralNet):
        got = net.__name__ if isinstance(net, type) else type(net)
        advice = (
            "Wrap a torch module: skorch.NeuralNetClassifier(MyModule, "
            "criterion=torch.nn.CrossEntropyLoss), or skorch.NeuralNetRegressor."
        )
        if isinstance(net, Pipeline):
            advice = (
                "Pass the net, its last step, and X as the steps before transform it; "
                "or put this estimator into the pipeline, in place of the net."
            )
        raise TypeError(
            f"{type(owner).__name__} needs a skorch net as estimator; got {got!r}. "
            f"{advice}"
        )
    if isinstance(net.module, torch.nn.Module):
        warnings.warn(
            f"the net holds an instance of {type(net.module).__name__}: every round "
            "goes on training the weights it has now, instead of starting from "
            "scratch. Pass the class, and its arguments as module__name=value.",
            UserWarning,
            stacklevel=4,
        )
    check_samplers(net.get_params_for("iterator_train"))
    _check_treatment(owner)
    check_drop_fraction(owner.drop_fraction)
    check_on_harmful(getattr(owner, "on_harmful", "drop"), owner.drop_fraction)
    check_objective(owner.objective)
    if not isinstance(given, Engine | None):
        raise TypeError(
            f"engine must be InfluenceFunctions(...) or None; got {given!r}."
        )
    engine = InfluenceFunctions() if given is None else given
    check_engine(engine)
    if owner.memory is not None and has_ranks(net):
        raise ValueError(
            "memory= is not supported where several processes train one net: one "
            "could find a split that another has to train. Leave it out."
        )
    return engine


def _check_treatment(owner: Any) -> None:
    """Raise a ValueError if the net cannot be trained on weights, or other targets."""
    net, on_harmful = owner.estimator, getattr(owner, "on_harmful", "drop")
    if on_harmful == "weigh" and has_ranks(net):
        raise ValueError(
            "on_harmful='weigh' is not supported where several processes train one "
            "net: each would draw samples of its own. Choose 'drop' or 'mend'."
        )


def _check_data(
    owner: Any, X: Any, y: Any, X_val: Any, y_val: Any, is_classification: bool
) -> tuple[Samples, Samples | None, np.ndarray | None]:
    """Return samples, validation samples and classes."""
    net = owner.estimator
    if X_val is not None:
        with prefix_errors("X_val"):
            X_val, y_val = with_targets_given(net, X_val, y_val)
    if (X_val is None) != (y_val is None):
        missing = "X_val" if X_val is None else "y_val"
        raise ValueError(
            f"X_val and y_val go together; {missing} is missing. Pass both, or "
            "neither and let cv hold samples out."
        )
    X, y = with_targets_given(net, X, y)
    if y is None:
        raise ValueError(
            f"{type(owner).__name__} requires y to be passed, but the target y is None."
        )
    X = check_inputs(owner, X, reset=True, casting=None)
    has_places = is_classification and takes_places(y)
    encoder = fit_labels(y) if is_classification and not has_places else None
    samples = samples_of(net, X, y, encoder, "y", has_places)
    check_consistent_length(X, samples.y)
    check_lengths(net, samples)
    classes = None if encoder is None else encoder.classes_
    if X_val is None:
        return samples, None, classes
    with prefix_errors("X_val"):
        X_val = check_inputs(owner, X_val, reset=False, shape=shape_of(X), casting=None)
    with prefix_errors("y_val"):
        validation = samples_of(net, X_val, y_val, encoder, "y_val", has_places)
        check_consistent_length(X_val, validation.y)
    check_held_out(len(X_val), "X_val")
    return samples, validation, classes


def check_held_out(n_samples: int, name: str) -> None:
    """Raise a ValueError if there are too few samples to measure influence on."""
    if n_samples < 2:
        raise ValueError(
            f"{name} holds {n_samples} sample(s); influence is measured on held-out "
            "samples and needs at least two."
        )


def _splits(
    owner: Any,
    samples: Samples,
    validation: Samples | None,
    classes: np.ndarray | None,
    seed: int,
    split_params: dict[str, Any],
) -> list[Split]:
    if validation is not None:
        splits = [Split(np.arange(len(samples)), np.arange(0))]
    else:
        # Hashed, so that the folds are independent of whatever else the user drew from
        # the same seed: labels spoiled on purpose, an outer split.
        splits = held_out_splits(
            owner.cv,
            samples.X,
            samples.y if samples.codes is None else samples.codes,
            classes=classes,
            random_state=derived_seed(seed),
            split_params=split_params,
        )
    if owner.drop_fraction == "auto":
        check_candidate_splits(splits)
    return splits


def _validation_of_refit(
    owner: Any, probe: NeuralNet, samples: Samples, validation: Samples | None
) -> Samples | Literal["own"] | None:
    """Return samples for the validation phase of round 2.

    Round 2 trains on every kept sample. Only where a callback needs validation samples
    and none were given does the net's own ``train_split`` withhold some, since
    otherwise the callback would fail. Raises a ValueError if callbacks of the probe
    would fail all the same.
    """
    watching = [] if validation is not None else needs_validation(probe)
    n_workers = n_processes(owner.n_jobs)
    check_travels(probe, owner.n_jobs)
    # Schedules may draw random numbers.
    with seeded(0, device_of(probe)):
        check_callbacks(probe, len(samples), n_workers, withholds=bool(watching))
    if not watching:
        return validation
    if not probe.train_split:
        raise ValueError(
            f"callback {watching[0]} watches a validation quantity, but round 2 has no "
            "validation samples. Pass X_val and y_val, or give the net a train_split."
        )
    return "own"


def _route(owner: Any, params: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the parameters of the net's ``fit``, and of the ``split`` of `cv`."""
    if params.get("sample_weight") is not None:
        raise ValueError(
            "sample_weight is not supported, because the losses of skorch do not "
            "accept it. For weights of classes set criterion__weight. For others pass "
            "an iterator_train that draws samples by weight (see 'Weights of samples' "
            "in the user guide), or let on_harmful='weigh' find weights."
        )
    if get_config()["enable_metadata_routing"]:
        routed = process_routing(owner, "fit", **params)
        split = routed.splitter.split if hasattr(owner.cv, "split") else {}
        return dict(routed.estimator.fit), dict(split)
    groups = {k: v for k, v in params.items() if k == "groups" and v is not None}
    return {k: v for k, v in params.items() if k != "groups"}, groups


def _with_cache(plan: Plan, owner: Any, probe: NeuralNet) -> Plan:
    if owner.random_state is None:
        warnings.warn(
            "memory has no effect with random_state=None: every fit draws another "
            "seed and trains anew. Set random_state to an integer.",
            UserWarning,
            stacklevel=4,
        )
    settings = {
        "objective": plan.objective,
        "engine": plan.engine,
        "ends_early": plan.ends_early,
        "fit_params": plan.fit_params,
        "n_splits": len(plan.splits),
    }
    samples = [plan.samples] + ([] if plan.validation is None else [plan.validation])
    key = cache_key(plan.net, probe, settings, samples)
    return replace(plan, cache=Cache(owner.memory), key=key)
