"""Check before anything is dropped: can the nets and the evidence be trusted.

Every check that fails adds a warning that says what to do, and keeps samples in doubt.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from sk_datadrop._drop import mean_influence
from sk_datadrop._judge import Evidence, told_by_places
from sk_datadrop._label_noise import chance_of_wrong_label, contradiction
from sk_datadrop._valleys import chance_beyond_valley

HARMFUL = 0.5
"""Samples with a larger chance of harm are dropped."""

SMALLEST_GAIN = 0.02
"""Share of a constant's held-out loss that nets must save for their word to count."""

SMALLEST_GAIN_IN_SPREAD = 0.2
"""Share of the variance of the targets (by their median absolute deviation) that also
suffices: gross errors may outweigh what a net has learned of all other samples."""

SMALLEST_CHANGE = 1e-4
"""Share of the held-out loss by which it must change for a net to have learned."""

LARGEST_UNEXPLAINED = 0.05
"""Share of the surest predictions that may contradict the labels of hard samples."""

LARGEST_SHARE = 0.5
"""Share of a class, or of all samples, that may be found harmful: if most labels of a
class were wrong, the nets would have learned the wrong ones."""

SMALLEST_POWER = 0.3
"""Share of planted errors that must be found, or an empty result means nothing."""

PLANTED_SHARE = 0.1
PLANTED_SIZE = 6.0
"""Standard deviations of a planted error of a real target."""

STILL_FALLING = 0.1
"""Share of the fall of the held-out loss that lies in the last fifth of the epochs."""


class DataDropoutWarning(UserWarning):
    """Warning that a fit could not tell which samples do harm.

    ``fit`` issues it if nets, trainings or numbers of samples do not allow to tell. The
    message says what to do. In doubt nothing is dropped.

    See Also
    --------
    DataDropoutClassifier : Issues it.

    Examples
    --------
    >>> import warnings
    >>> from sk_datadrop import DataDropoutWarning
    >>> warnings.simplefilter("error", DataDropoutWarning)
    """


class Course(NamedTuple):
    """How the training of a split went: what it lost on the samples held out.

    `losses`, (n_epochs,), is the training loss after each epoch. At the best epoch the
    samples lose `lowest` each, and the best constant prediction would lose `constant`.
    Of targets of one value, `gain_in_spread` is the share of their variance that the
    net explains, by median absolute deviations.
    """

    losses: np.ndarray
    lowest: float
    constant: float
    gain_in_spread: float = 0.0

    @property
    def gain(self) -> float:
        """Share of the constant's loss that the net saves."""
        gain = (self.constant - self.lowest) / (abs(self.constant) or 1.0)
        if self.gain_in_spread < SMALLEST_GAIN_IN_SPREAD:
            return gain
        return max(gain, self.gain_in_spread)

    @property
    def best_epoch(self) -> int:
        """Epoch of the lowest loss, counted from 1."""
        return int(np.argmin(np.where(np.isnan(self.losses), np.inf, self.losses))) + 1


@dataclass(frozen=True)
class Verdict:
    """The chance of harm of each sample after all safeguards.

    Attributes
    ----------
    harm_probability : ndarray of shape (n_samples,), dtype float64
        NaN where not scored.
    is_harmful : ndarray of shape (n_samples,), dtype bool
        More likely harmful than not, unless a safeguard forbids to act on it.
    power : float
        Share of planted errors that the predictions and losses tell.
    notes : list of str
        What could not be known, and what to do.
    """

    harm_probability: np.ndarray
    is_harmful: np.ndarray
    power: float
    notes: list[str]

    @property
    def chance_to_act_on(self) -> np.ndarray:
        """The chance of harm, zero where none may be acted on; (n_samples,)."""
        chance = np.nan_to_num(self.harm_probability)
        if not self.is_harmful.any():
            return np.zeros(len(chance))
        return np.where(self.is_harmful | (chance <= HARMFUL), chance, 0.0)


def review(
    evidence: Evidence,
    harm_probability: np.ndarray,
    courses: Sequence[Course],
    class_names: np.ndarray | None = None,
) -> Verdict:
    """Look at nets, trainings and numbers of samples before anything is dropped."""
    suspected = np.nan_to_num(harm_probability) > HARMFUL
    is_harmful, notes = suspected.copy(), []
    gain = float(np.median([course.gain for course in courses]))
    if gain < SMALLEST_GAIN:
        notes.append(_say_blind(gain, int(suspected.sum())))
        is_harmful[:] = False
    notes += _look_at_epochs(courses)
    of_hard_samples = []
    if gain >= SMALLEST_GAIN:
        of_hard_samples = _look_at_hard_samples(evidence, is_harmful)
    notes += of_hard_samples
    if is_harmful.mean() > LARGEST_SHARE:
        notes.append(
            f"{is_harmful.mean():.0%} of all samples look harmful, and nets trained on "
            "them cannot know that; none was dropped. Check the targets, or pass "
            "samples that you trust as X_val and y_val."
        )
        is_harmful[:] = False
    if evidence.codes is not None:
        notes += _spare_classes(is_harmful, evidence.codes, class_names)
    power = power_of(evidence)
    found_nothing = gain >= SMALLEST_GAIN and not suspected.any()
    if found_nothing and power < SMALLEST_POWER and not of_hard_samples:
        notes.append(
            "nothing was found, but little could have been: only "
            f"{power:.0%} of the errors planted in the evidence were recognised. Use "
            "more samples, a better net, or samples that you trust as X_val and y_val."
        )
    return Verdict(harm_probability, is_harmful, power, notes)


def _say_blind(gain: float, n_suspected: int) -> str:
    return (
        "the nets of round 1 predict held-out samples hardly better than a constant "
        f"does (they save {gain:.1%} of its loss), so they cannot tell which samples "
        f"do harm: {n_suspected} look harmful, none was dropped. Scale the inputs (and "
        "the targets of a regressor), train longer, or use another learning rate or "
        "another net."
    )


def _look_at_epochs(courses: Sequence[Course]) -> list[str]:
    if np.median([_change(course.losses) for course in courses]) < SMALLEST_CHANGE:
        return [
            "the loss of held-out samples hardly changed from the first epoch to the "
            "last, so that the nets are as good as untrained. Raise the learning rate."
        ]
    lengths = [len(course.losses) for course in courses]
    first = [c.best_epoch == 1 and n > 2 for c, n in zip(courses, lengths, strict=True)]
    if np.mean(first) > 0.5:
        return [
            "held-out samples are predicted best after the first epoch, so only that "
            "epoch was scored: the steps are too large, or an epoch has too many of "
            "them. Lower the learning rate."
        ]
    if np.mean([_still_falls(course.losses) for course in courses]) > 0.5:
        return [
            "the loss of held-out samples was still falling when training ended: nets "
            "that have not learned yet find too little, or the wrong samples. Raise "
            "max_epochs."
        ]
    return []


def _change(losses: np.ndarray) -> float:
    """Return the range of the losses as a share of their size; infinity if unknown."""
    if len(losses) < 3 or not np.isfinite(losses).all():
        return np.inf
    return float(np.ptp(losses) / (np.abs(losses).max() or 1.0))


def _still_falls(losses: np.ndarray) -> bool:
    n_last = len(losses) // 5
    if not n_last or int(np.argmin(losses)) < len(losses) - 1:
        return False
    fell = losses[0] - losses[-1]
    return bool(losses[-1 - n_last] - losses[-1] > STILL_FALLING * fell)


def _look_at_hard_samples(evidence: Evidence, is_harmful: np.ndarray) -> list[str]:
    """Keep all, in place, where the surest predictions are mostly contradicted."""
    log_proba, codes = evidence.log_proba("held out"), evidence.codes
    if log_proba is None or codes is None:
        return []
    known = ~np.isnan(log_proba).any(axis=1)
    if not known.any():
        return []
    trained_on = evidence.log_proba("trained on")[known]
    rate, share_wrong = contradiction(log_proba[known], codes[known], trained_on)
    if rate > LARGEST_SHARE:
        is_harmful[:] = False
        return [
            f"even the surest tenth of the predictions contradict {rate:.0%} of the "
            "labels of held-out samples: the nets know too little to tell which labels "
            "are wrong, and none was dropped. More samples or a better net would tell."
        ]
    if rate * (1 - share_wrong) <= LARGEST_UNEXPLAINED:
        return []
    return [
        f"even the surest tenth of the predictions contradict {rate:.0%} of the labels "
        "of held-out samples. Many of these samples seem hard, not mislabelled, so "
        "their chances of harm were lowered. A better net or more samples would tell "
        "the two apart."
    ]


def _spare_classes(
    is_harmful: np.ndarray, codes: np.ndarray, class_names: np.ndarray | None
) -> list[str]:
    """Keep classes most of which look harmful, in place."""
    n_harmful = np.bincount(codes, weights=is_harmful)
    size = np.bincount(codes)
    spared = np.flatnonzero(n_harmful > LARGEST_SHARE * size)
    if not len(spared):
        return []
    is_harmful[np.isin(codes, spared)] = False
    names = spared if class_names is None else class_names[spared]
    shown = ", ".join(
        f"{name!r} ({harmful:.0f} of {n})"
        for name, harmful, n in zip(
            np.asarray(names).tolist(), n_harmful[spared], size[spared], strict=True
        )
    )
    return [
        f"most samples of class {shown} look harmful; they were kept, because dropping "
        "them would remove the class. Either most of its labels are wrong, or the nets "
        "have not learned it: scale the inputs, train longer, weight the classes, or "
        "look at its samples."
    ]


def power_of(evidence: Evidence) -> float:
    """Return the share of planted errors that the evidence tells.

    A tenth of the labels are replaced, or of the losses raised to those of errors of
    six standard deviations, and the same rules look for them: a calibration by errors
    that are known, like the threshold samples of Pleiss et al. (2020,
    arXiv:2001.10528), but without a training.
    """
    if evidence.codes is not None:
        of: Literal["held out", "all"] = "all"
        if evidence.held_out.any():
            of = "held out"
        log_proba = evidence.log_proba(of)
        if log_proba is None:
            return 0.0
        known = ~np.isnan(log_proba).any(axis=1)
        return _power_for_labels(log_proba[known], evidence.codes[known])
    if evidence.place_codes is not None:
        return _power_for_places(evidence, evidence.place_codes)
    losses = mean_influence(evidence.losses)
    return _power_for_losses(np.maximum(losses[np.isfinite(losses)], 0.0))


def _power_for_labels(log_proba: np.ndarray, codes: np.ndarray) -> float:
    n_samples, n_classes = log_proba.shape
    if n_classes < 2 or not n_samples:
        return 0.0
    planted = _every_tenth(log_proba[np.arange(n_samples), codes])
    wrong = codes.copy()
    steps = 1 + np.arange(len(planted)) % (n_classes - 1)
    wrong[planted] = (codes[planted] + steps) % n_classes
    before = chance_of_wrong_label(log_proba, codes)
    return _share_found(before, chance_of_wrong_label(log_proba, wrong), planted)


def _power_for_places(evidence: Evidence, codes: np.ndarray) -> float:
    """Replace a class of a tenth of the samples, or of a tenth of their pixels."""
    known = np.flatnonzero((codes >= 0).any(axis=1))
    if not len(known) or not evidence.predictions:
        return 0.0
    n_classes = evidence.predictions[0].log_proba.shape[1]
    n_wrong = max(1, round(PLANTED_SHARE * codes.shape[1] * evidence.has_pixels))
    planted = known[_every_tenth(mean_influence(evidence.losses)[known])]
    wrong = codes.copy()
    for number, row in enumerate(planted):
        places = np.roll(np.flatnonzero(codes[row] >= 0), number)[:n_wrong]
        wrong[row, places] = (codes[row, places] + 1) % n_classes
    before, after = (
        told_by_places(replace(evidence, place_codes=given)) for given in (codes, wrong)
    )
    return _share_found(before, after, planted)


def _power_for_losses(losses: np.ndarray) -> float:
    if not len(losses):
        return 0.0
    variance = np.median(losses) / 0.455  # the median of chi-squared
    if not variance > 0:
        return 0.0
    planted = _every_tenth(losses)
    raised = losses.copy()
    raised[planted] = (
        variance * (np.sqrt(losses[planted] / variance) + PLANTED_SIZE) ** 2
    )
    before, after = (
        chance_beyond_valley(np.log(np.maximum(values, np.finfo(float).tiny)))
        for values in (losses, raised)
    )
    return _share_found(before, after, planted)


def _share_found(before: np.ndarray, after: np.ndarray, planted: np.ndarray) -> float:
    """Return the share of planted errors found, corrected for chance.

    Who suspects a share of all samples anyway finds as many of those planted.
    """
    by_chance = float(np.mean(before > HARMFUL))
    found = float(np.mean(after[planted] > HARMFUL))
    return max(found - by_chance, 0.0) / (1 - by_chance) if by_chance < 1 else 0.0


def _every_tenth(values: np.ndarray) -> np.ndarray:
    """Return positions by rank, so that the order of the samples does not matter."""
    step = round(1 / PLANTED_SHARE)
    first = min(step // 2, len(values) - 1)
    return np.argsort(values, kind="stable")[first::step]


def summary_of(
    verdict: Verdict,
    keep: np.ndarray,
    courses: Sequence[Course],
    on_harmful: str = "drop",
) -> str:
    """Return a summary of the fit in one line."""
    n_samples = len(keep)
    n_treated = int(np.sum(~keep if on_harmful == "drop" else verdict.is_harmful))
    verb = {"drop": "dropped", "weigh": "weighed down", "mend": "mended"}[on_harmful]
    n_harmful = int(np.sum(np.nan_to_num(verdict.harm_probability) > HARMFUL))
    epochs = ", ".join(str(course.best_epoch) for course in courses)
    longest = max(len(course.losses) for course in courses)
    remarks = f"; {len(verdict.notes)} warning(s)" if verdict.notes else ""
    return (
        f"{verb} {n_treated:,} of {n_samples:,} samples "
        f"({n_treated / n_samples:.1%}); {n_harmful:,} are more likely harmful than "
        f"not; errors planted in the evidence are found at {verdict.power:.0%}; scored "
        f"at epochs {epochs} of {longest} trained{remarks}"
    )
