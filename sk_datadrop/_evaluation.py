"""Losses and predictions of a net, and a constant to compare them with."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sk_datadrop._functional import FunctionalNet
from sk_datadrop._reading import Reading, surprise
from sk_datadrop._samples import Samples


class Evaluation(NamedTuple):
    """Losses and predictions of a net for some samples.

    Losses, (n_samples,), are those by the criterion, without penalties; of classes they
    are minus the log-probability of the given one, the mean over the places that have
    one, so that no weight of a class counts, and NaN if none has. There are
    log-probabilities, (n_samples, n_classes) or, of some of many places, (n_samples,
    n_classes, n_places), and the given classes there, -1 for none. Of other targets
    there are their mean, or the share of each class, and, of targets of one real value,
    what is left of it, (n_samples,). The mean loss by the criterion, without class
    weights and label smoothing of torch's, compares with that of a constant prediction.
    """

    losses: np.ndarray
    mean_loss: float = np.nan
    log_proba: np.ndarray | None = None
    mean_target: np.ndarray | None = None
    constant_loss: float = np.nan
    residuals: np.ndarray | None = None
    place_codes: np.ndarray | None = None


def evaluate(
    net: FunctionalNet,
    samples: Samples,
    reading: Reading | None,
    constant: np.ndarray | None = None,
    *,
    most_values: int = 0,
) -> Evaluation:
    """Return what the net makes of samples, at its `theta`, in one pass.

    The constant is the `mean_target` of an evaluation of other samples. With many
    classes per sample no more log-probabilities of a sample are kept than
    `most_values`.
    """
    if not len(samples):
        return Evaluation(np.empty(0))
    if reading is None:
        return _evaluate_real(net, samples, constant)
    return _evaluate_classes(net, samples, reading, constant, most_values)


@torch.no_grad()
def _evaluate_real(
    net: FunctionalNet, samples: Samples, constant: np.ndarray | None
) -> Evaluation:
    losses, constant_losses, residuals = [], [], []
    total = torch.zeros((), dtype=torch.float64)
    for X, y in net.batches(samples):
        outputs = net.outputs(net.theta, X)
        losses.append(net.criterion_losses(outputs, y))
        total = total + y.double().sum(0).cpu()
        predicted = net.predicted(outputs, y) if net.has_residuals(y) else None
        if predicted is not None:
            residuals.append((y - predicted).reshape(-1))
        if constant is not None and outputs[0].numel() == constant.size:
            same = torch.as_tensor(constant).to(outputs).reshape(outputs.shape[1:])
            constant_losses.append(net.criterion_losses(same.expand_as(outputs), y))
    return Evaluation(
        _joined(losses),
        _mean(losses),
        mean_target=(total / len(samples)).numpy(),
        constant_loss=_mean(constant_losses),
        residuals=_joined(residuals) if residuals else None,
    )


@torch.no_grad()
def _evaluate_classes(
    net: FunctionalNet,
    samples: Samples,
    reading: Reading,
    constant: np.ndarray | None,
    most_values: int,
) -> Evaluation:
    losses, by_criterion, log_proba, codes, constant_losses = [], [], [], [], []
    total = torch.zeros((), dtype=torch.float64)
    for X, y in net.batches(samples):
        outputs = net.outputs(net.theta, X)
        log_chances, given = net.chances(outputs, y, reading)
        n_given = given.sum((1, 2))
        of_chances = surprise(log_chances, given)
        losses.append(torch.where(n_given > 0, of_chances, torch.nan))
        # Ignored places have a loss of zero.
        weight = given.shape[2] / n_given.clamp_min(1e-9)
        weight = torch.where((n_given > 0) & (weight > 1), weight, 1)
        by_criterion.append(
            of_chances
            if reading.shift is not None
            else net.criterion_losses(outputs, y) * weight
        )
        if samples.codes is not None:
            log_proba.append(log_chances[:, :, 0].float().cpu())
        elif (step := _step(log_chances, y, most_values)) > 0:
            log_proba.append(log_chances[:, :, ::step].float().cpu())
            known, found = given[:, :, ::step].max(1)
            codes.append(found.where(known > 0, -1).cpu())
        each = given.double().sum(0).cpu()
        total = total + (each if reading.has_columns else each.sum(1, keepdim=True))
        if constant is not None:
            of_constant = net.losses_of_constant(outputs, y, reading, constant)
            constant_losses.append(of_constant * weight)
    return Evaluation(
        _joined(losses),
        _mean(by_criterion),
        torch.cat(log_proba).numpy() if log_proba else None,
        (total / total.sum(0).clamp_min(torch.finfo(total.dtype).tiny)).numpy(),
        _mean(constant_losses),
        place_codes=torch.cat(codes).numpy() if codes else None,
    )


def _step(log_chances: Tensor, y: Tensor, most_values: int) -> int:
    """Return which places are kept: all, of pixels evenly spaced ones, or none (0)."""
    n_values = log_chances[0].numel()
    if n_values <= most_values:
        return 1
    of_place = log_chances.shape[1]
    return -(-n_values // most_values) if y.ndim > 2 and of_place <= most_values else 0


def _joined(parts: list[Tensor]) -> np.ndarray:
    return np.asarray(torch.cat(parts).double().cpu().numpy())


def _mean(parts: list[Tensor]) -> float:
    return float(_joined(parts).mean()) if parts else float(np.nan)
