"""Give harmful samples weights or other targets instead of dropping them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from skorch import NeuralNet, NeuralNetBinaryClassifier

from sk_datadrop._drop import mean_influence
from sk_datadrop._functional import FunctionalNet
from sk_datadrop._judge import Evidence
from sk_datadrop._mending import (
    Suggestion,
    chances_of_classes,
    doubt,
    mend_values,
    other_classes,
    suggest_classes,
    suggest_values,
)
from sk_datadrop._plan import Plan
from sk_datadrop._predictions import expected_targets
from sk_datadrop._safeguards import Verdict
from sk_datadrop._targets import class_targets

BestNets = Sequence[tuple[NeuralNet, dict[str, Any] | None]]
"""Nets of round 1, and their weights at the best epoch where these were kept."""


class Treatment(NamedTuple):
    """How samples take part in round 2, and what their targets should have been.

    `weights`, (n_samples,), are None where all count alike, and `targets`, as the net
    takes them, where they are those given.
    """

    weights: np.ndarray | None = None
    targets: np.ndarray | None = None
    suggestion: Suggestion | None = None


def treat(
    plan: Plan, evidence: Evidence, verdict: Verdict, nets: BestNets, on_harmful: str
) -> Treatment:
    """Weigh or mend by the chance of harm, and suggest targets."""
    chance, suspicion = (
        verdict.chance_to_act_on,
        np.nan_to_num(verdict.harm_probability),
    )
    weights = 1 - chance if on_harmful == "weigh" and chance.any() else None
    is_mended = on_harmful == "mend" and bool(chance.any())
    codes = plan.samples.codes
    if codes is not None:
        others = other_classes(evidence)
        chances = chances_of_classes(others, codes, suspicion)
        suggestion = suggest_classes(chances, codes, chance)
        if not is_mended:
            return Treatment(weights, None, suggestion)
        if _takes_chances(plan):
            mended = chances_of_classes(others, codes, doubt(chance))
            return Treatment(None, _as_targets(plan.net, mended), suggestion)
        return Treatment(None, class_targets(plan.net, suggestion.targets), suggestion)
    if evidence.residuals is None and on_harmful != "mend":
        # Pictures: as many as there are samples, for nobody who asked.
        return Treatment(weights)
    y = np.asarray(plan.samples.y)
    predicted = _held_out_predictions(plan, evidence, y, chance, nets)
    as_classes = _as_classes(plan, y, predicted)
    suggestion = suggest_values(y, as_classes, chance, suspicion)
    if not is_mended:
        return Treatment(weights, None, suggestion)
    if predicted is as_classes or _takes_chances_of_two(plan):
        return Treatment(None, mend_values(y, predicted, doubt(chance)), suggestion)
    return Treatment(None, suggestion.targets, suggestion)


def _as_classes(plan: Plan, y: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return predictions as classes, where targets are many of them per sample."""
    reading = plan.reading
    if reading is None or not plan.is_classification:
        return predicted
    if reading.is_binary:
        second = predicted > (1 + reading.first) / 2
        classes = np.where(second, 1, reading.first)
        predicted = np.where(np.isnan(predicted), np.nan, classes)
    has_none = reading.codes(y).reshape(y.shape) < 0
    return np.where(has_none, y, predicted)


def _takes_chances_of_two(plan: Plan) -> bool:
    """Tell whether the chance of the second class may be a target."""
    criterion = plan.net.criterion
    return isinstance(criterion, type) and issubclass(
        criterion, torch.nn.BCEWithLogitsLoss | torch.nn.BCELoss
    )


def _takes_chances(plan: Plan) -> bool:
    """Tell whether chances of classes may be targets: under plain cross entropy.

    With weights of classes torch would change the scale of the loss, and scores of
    training samples need classes, as do shares of a part that is withheld.
    """
    net = plan.net
    scored = any(getattr(c, "on_train", False) for c in _callbacks_of(net))
    if plan.refit_validation == "own" or scored:
        return False
    if isinstance(net, NeuralNetBinaryClassifier):
        return True
    options = net.get_params_for("criterion")
    is_plain = options.get("weight") is None and options.get("ignore_index", -1) < 0
    return net.criterion is torch.nn.CrossEntropyLoss and is_plain


def _callbacks_of(net: NeuralNet) -> list[Any]:
    if not isinstance(net.callbacks, list | tuple):
        return []
    return [c[1] if isinstance(c, tuple) else c for c in net.callbacks]


def _as_targets(net: NeuralNet, chances: np.ndarray) -> np.ndarray:
    is_binary = isinstance(net, NeuralNetBinaryClassifier)
    targets = chances[:, 1] if is_binary else chances
    return np.asarray(targets.astype(np.float32))


def _held_out_predictions(
    plan: Plan, evidence: Evidence, y: np.ndarray, chance: np.ndarray, nets: BestNets
) -> np.ndarray:
    """Return what nets predict that did not train on a sample; NaN where none does.

    Pictures are predicted only where there is a chance that they are wrong.
    """
    if evidence.residuals is not None:
        residuals = mean_influence(evidence.residuals)
        return np.asarray(y - residuals.reshape(y.shape))
    asked = np.flatnonzero(chance > 0)
    total: Any = 0.0
    count = np.zeros(len(asked))
    for (net, state), held_out in zip(nets, evidence.held_out, strict=True):
        # With samples to validate on, the only net has trained on all of them.
        of_split = held_out[asked] | (not evidence.held_out.any())
        if of_split.any():
            samples = plan.samples[asked[of_split]]
            expected = expected_targets(
                FunctionalNet(net, state), samples, plan.reading
            )
            if np.ndim(total) == 0:
                total = np.zeros((len(asked), *expected.shape[1:]))
            total[of_split] += expected
            count[of_split] += 1
    predicted = np.full(y.shape, np.nan)
    if np.ndim(total):
        known = count > 0
        mean = total[known] / count[known].reshape(-1, *[1] * (total.ndim - 1))
        if mean[:1].size != y[:1].size:
            mean = mean.argmax(axis=1)
        predicted[asked[known]] = mean.reshape(-1, *y.shape[1:])
    return predicted
