"""From what the splits found to a chance of harm per sample.

Three witnesses, none of which is enough:

- *the other splits*: how likely is a split to find a sample harmful, given what all
  other splits say of it? Samples are pooled: a split is too noisy to tell about one
  sample, but not about all that look alike to the others.
- *the predictions* (classes only): how likely is the given label wrong, given how
  often labels differ from the most confident predictions? On clean data this says no.
- *a cluster of its own*: losses, or for real targets also influences, beyond a valley
  of their density. The only witness where influence cannot see: errors of both signs
  of a regression do harm by variance, inputs that show nothing by taking up room.
  Without a cluster, a few residuals of a much wider distribution count instead, or, of
  targets of many values, losses.

The first two are averaged on the scale of log-odds, which came out calibrated on the
cells of the gauntlet that are for choosing; a cluster counts by itself.

It uses numpy, scipy and scikit-learn only, and knows neither nets nor estimators.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import QuantileTransformer, SplineTransformer

from sk_datadrop._contamination import (
    chance_of_contamination,
    chance_of_upper_kind,
)
from sk_datadrop._drop import mean_influence
from sk_datadrop._label_noise import chance_of_wrong_label
from sk_datadrop._valleys import chance_beyond_valley

LARGEST_CERTAINTY = 0.99
"""No witness is surer than this, so that none overrules another whatever it says."""

N_FOLDS = 3
MOST_SAMPLES_TO_FIT = 10_000
FEWEST_OF_A_KIND = 5
"""Samples found harmful, and not, below which looks teach nothing."""


WRONG_PIXELS = 0.05
"""Share of a picture that has to be more likely wrong than not."""

SMALLEST_LOG_PROBA = -50.0


class Predictions(NamedTuple):
    """Log-probabilities of the classes, (n_rows, n_classes), of which rows, by a split.

    At the best epoch it does not know the samples by heart that it was trained on. With
    many classes per sample they are of shape (n_rows, n_classes, n_places).
    """

    split: int
    rows: np.ndarray
    log_proba: np.ndarray


@dataclass(frozen=True)
class Evidence:
    """Influence, losses and predictions of the samples, from all splits.

    Attributes
    ----------
    influence_per_view : ndarray of shape (n_views, n_samples), dtype float64
        NaN where a view did not score a sample.
    split_of_view : ndarray of shape (n_views,), dtype int
    held_out : ndarray of shape (n_splits, n_samples), dtype bool
    losses : ndarray of shape (n_splits, n_samples), dtype float64
        At the best epoch; NaN where a split neither trained on a sample nor held it
        out.
    predictions : list of Predictions
        None unless targets are classes.
    codes : ndarray of shape (n_samples,) or None
        Classes as given.
    place_codes : ndarray of shape (n_samples, n_places) or None
        Many classes per sample, -1 at places that have none.
    has_columns, has_pixels : bool
        Whether places are labels, each with classes of its own, or pixels, not tokens.
    residuals : ndarray of shape (n_splits, n_samples), dtype float64, or None
        Of held-out samples, NaN elsewhere; None unless targets are single values.
    """

    influence_per_view: np.ndarray
    split_of_view: np.ndarray
    held_out: np.ndarray
    losses: np.ndarray
    predictions: list[Predictions]
    codes: np.ndarray | None = None
    residuals: np.ndarray | None = None
    place_codes: np.ndarray | None = None
    has_columns: bool = False
    has_pixels: bool = False

    @property
    def influence(self) -> np.ndarray:
        """Mean over the views, shape (n_samples,)."""
        return mean_influence(self.influence_per_view)

    def without_split(self, number: int) -> "Evidence":
        """Return what all other splits found out."""
        others = np.arange(len(self.losses)) != number
        of_others = self.split_of_view != number
        new_number = np.cumsum(others) - 1
        return replace(
            self,
            influence_per_view=self.influence_per_view[of_others],
            split_of_view=new_number[self.split_of_view[of_others]],
            held_out=self.held_out[others],
            losses=self.losses[others],
            residuals=None if self.residuals is None else self.residuals[others],
            predictions=[
                Predictions(int(new_number[p.split]), p.rows, p.log_proba)
                for p in self.predictions
                if p.split != number
            ],
        )

    def log_proba(self, of: Literal["held out", "trained on", "all"]) -> Any:
        """Return the mean over the splits that held a sample out, or trained on it.

        It is of the shape of the predictions, NaN for samples that none predicts, and
        None unless targets are classes.
        """
        if not self.predictions:
            return None
        shape = self.predictions[0].log_proba.shape[1:]
        total = np.zeros((self.losses.shape[1], *shape))
        count = np.zeros((len(total), *[1] * len(shape)))
        for split, rows, log_proba in self.predictions:
            is_held_out = self.held_out[split, rows]
            wanted = np.full(len(rows), True)
            if of != "all":
                wanted = is_held_out if of == "held out" else ~is_held_out
            total[rows[wanted]] += np.maximum(log_proba[wanted], SMALLEST_LOG_PROBA)
            count[rows[wanted]] += 1
        with np.errstate(invalid="ignore"):
            return np.asarray(total / count)


def chance_of_harm(evidence: Evidence) -> np.ndarray:
    """Return how likely each sample does harm, (n_samples,), in [0, 1].

    NaN for samples that no view scored.
    """
    is_scored = ~np.isnan(evidence.influence)
    chance = np.full(len(is_scored), np.nan)
    if not is_scored.any():
        return chance
    if evidence.codes is not None:
        losses = _mean_loss(evidence, ~evidence.held_out)
        found = [
            _of_both(evidence, _told_by_predictions(evidence)),
            _of_finite(chance_beyond_valley, losses),
        ]
    else:
        found = _of_clusters(evidence)
        if not np.any(found):
            found.append(_of_no_cluster(evidence))
    chance[is_scored] = np.max(found, axis=0)[is_scored]
    # Samples without any class, such as of ignored pixels, do neither harm nor good.
    chance[_has_no_class(evidence)] = 0.0
    return chance


def _has_no_class(evidence: Evidence) -> np.ndarray:
    codes = evidence.place_codes
    none = np.zeros(evidence.losses.shape[1], dtype=bool)
    return none if codes is None else np.asarray((codes < 0).all(axis=1))


def _of_both(evidence: Evidence, told_by_predictions: np.ndarray) -> np.ndarray:
    """Return the chance by predictions and the other splits, on the scale of odds."""
    witnesses = [_told_by_other_splits(evidence), told_by_predictions]
    of_both = np.clip(witnesses, 1 - LARGEST_CERTAINTY, LARGEST_CERTAINTY)
    return np.asarray(expit(logit(of_both).mean(axis=0)))


def _of_clusters(evidence: Evidence) -> list[np.ndarray]:
    """Return the chances to lie in a cluster of bad losses or influences."""
    return [
        _of_finite(chance_beyond_valley, values)
        for values in (
            np.log(_mean_loss(evidence, ~evidence.held_out)),
            np.log(_mean_loss(evidence, evidence.held_out)),
            np.where(
                _has_no_class(evidence),
                np.nan,
                -np.arcsinh(mean_influence(_opinions(evidence)[0])),
            ),
        )
    ]


def _of_no_cluster(evidence: Evidence) -> np.ndarray:
    """Return the chance of an error that has no size of its own."""
    if evidence.place_codes is not None:
        return _of_both(evidence, told_by_places(evidence))
    if evidence.residuals is None:
        losses = np.log(_mean_loss(evidence, evidence.held_out))
        return _of_finite(chance_of_upper_kind, losses)
    return _of_finite(chance_of_contamination, mean_influence(evidence.residuals))


def _mean_loss(evidence: Evidence, which: np.ndarray) -> np.ndarray:
    """Return the mean over some of the splits, or all for samples that these miss."""
    losses = np.where(which, evidence.losses, np.nan)
    missing = np.isnan(losses).all(axis=0)
    losses[:, missing] = evidence.losses[:, missing]
    means = mean_influence(losses)
    # Its logarithm is taken. Densities have losses below zero: they count from a lowest
    # that no sample reaches.
    if (lowest := np.nanmin(means)) < 0:
        means = means - lowest + (np.nanmedian(means) - lowest) / len(means)
    return np.asarray(np.maximum(means, np.finfo(float).tiny))


def _of_finite(
    chance_of: Callable[[np.ndarray], np.ndarray], values: np.ndarray
) -> np.ndarray:
    """Return the chances of finite values, and zero for others."""
    finite = np.isfinite(values)
    chance = np.zeros(len(values))
    if finite.any():
        chance[finite] = chance_of(values[finite])
    return chance


def _told_by_predictions(evidence: Evidence) -> np.ndarray:
    """Return the chance of a wrong label; 1/2 for samples without a prediction."""
    chance = np.full(evidence.losses.shape[1], 0.5)
    every, codes = evidence.log_proba("all"), evidence.codes
    if every is None or codes is None:
        return chance
    known = ~np.isnan(every).any(axis=1)
    if known.any():
        chance[known] = chance_of_wrong_label(
            evidence.log_proba("held out")[known],
            codes[known],
            every[known],
            evidence.log_proba("trained on")[known],
        )
    return chance


def told_by_places(evidence: Evidence) -> np.ndarray:
    """Return the chance of a wrong class in a sample; 1/2 without predictions.

    It is that of the class most likely wrong, as if others were wrong together with it:
    errors come in samples that are spoiled as a whole, and were they independent, a
    little doubt of each of many would add up to certainty. Labels are problems of their
    own, tokens all of one. A few pixels are at the border of something; there as many
    must be wrong as `WRONG_PIXELS` of the picture.
    """
    every, codes = evidence.log_proba("all"), evidence.place_codes
    if every is None or codes is None:
        return np.full(evidence.losses.shape[1], 0.5)
    held_out = evidence.log_proba("held out")
    trained_on = evidence.log_proba("trained on")
    chance = np.zeros(codes.shape)
    columns = np.arange(codes.shape[1])
    for places in columns[:, None] if evidence.has_columns else [columns]:
        # One class per row.
        of_all, of_held_out, of_trained_on = (
            np.moveaxis(log_proba[:, :, places], 1, 2).reshape(-1, every.shape[1])
            for log_proba in (every, held_out, trained_on)
        )
        given = codes[:, places].reshape(-1)
        known = (given >= 0) & ~np.isnan(of_all).any(axis=1)
        found = np.zeros(len(given))
        if known.any():
            found[known] = chance_of_wrong_label(
                of_held_out[known], given[known], of_all[known], of_trained_on[known]
            )
        chance[:, places] = found.reshape(len(codes), -1)
    share = WRONG_PIXELS if evidence.has_pixels else 0
    rank = max(1, round(share * codes.shape[1]))
    is_unknown = np.isnan(every).reshape(len(codes), -1).all(axis=1)
    of_rank = np.sort(chance, axis=1)[:, -rank]
    return np.where(is_unknown, 0.5, of_rank)


def _opinions(evidence: Evidence) -> tuple[np.ndarray, np.ndarray]:
    """Return the influences that are told from each other, and their splits.

    One per split, (n_splits, n_samples), since views of a split share its training; of
    a single split its views. They are in units of the median size of their own.
    """
    views, splits = evidence.influence_per_view, evidence.split_of_view
    if len(np.unique(splits)) > 1:
        kinds = np.unique(splits)
        views = np.stack([mean_influence(views[splits == kind]) for kind in kinds])
        splits = kinds
    sizes = np.array([_typical_size(view) for view in views])
    return views / sizes[:, None], splits


def _typical_size(influence: np.ndarray) -> float:
    sizes = np.abs(influence[~np.isnan(influence)])
    median = float(np.median(sizes)) if len(sizes) else 0.0
    return median or float(sizes.max(initial=0.0)) or 1.0


def _told_by_other_splits(evidence: Evidence) -> np.ndarray:
    """Return how likely a split finds a sample harmful, by what all others say of it.

    A logistic regression on what the others say, fitted on samples of other folds, and
    averaged over the splits. With a single view its sign is all there is. Where all
    influence is zero, as by a saturated net, there is no opinion.
    """
    opinions, splits = _opinions(evidence)
    opinions[~np.nan_to_num(opinions).any(axis=1)] = np.nan
    if len(opinions) == 1:
        chance = np.where(opinions[0] < 0, LARGEST_CERTAINTY, 1 - LARGEST_CERTAINTY)
        return np.where(np.isnan(opinions[0]), 0.5, chance)
    chances = np.full(opinions.shape, np.nan)
    for number, opinion in enumerate(opinions):
        others = np.arange(len(opinions)) != number
        looks = _looks(
            opinions[others],
            evidence.losses[splits[others]],
            evidence.held_out[splits[others]],
        )
        scored = np.flatnonzero(~np.isnan(opinion))
        chances[number, scored] = _out_of_fold(looks[scored], opinion[scored] < 0)
    chance = mean_influence(chances)
    return np.where(np.isnan(chance), 0.5, chance)


def _looks(
    opinions: np.ndarray, losses: np.ndarray, held_out: np.ndarray
) -> np.ndarray:
    """Return what some splits say of the samples, (n_samples, n_columns).

    Mean, lowest and highest influence, and the mean loss, of all and when trained on.
    """
    when_trained_on = np.where(held_out, np.nan, losses)
    columns = [
        mean_influence(opinions),
        np.min(np.where(np.isnan(opinions), np.inf, opinions), axis=0),
        np.max(np.where(np.isnan(opinions), -np.inf, opinions), axis=0),
        mean_influence(losses),
        mean_influence(when_trained_on),
    ]
    return np.stack([np.where(np.isfinite(c), c, 0.0) for c in columns], axis=1)


def _out_of_fold(looks: np.ndarray, is_harmful: np.ndarray) -> np.ndarray:
    """Return the chance of harm by looks, from a model that did not see the sample.

    Folds go by rank of the looks, so that the order of the samples does not matter.
    """
    order = np.lexsort(looks.T[::-1])
    fold = np.empty(len(order), dtype=int)
    fold[order] = np.arange(len(order)) % N_FOLDS
    chance = np.empty(len(looks))
    for number in range(N_FOLDS):
        inside = fold == number
        rows = order[~inside[order]]
        rows = rows[:: 1 + len(rows) // MOST_SAMPLES_TO_FIT]
        chance[inside] = _predict(looks[rows], is_harmful[rows], looks[inside])
    return chance


def _predict(
    looks: np.ndarray, is_harmful: np.ndarray, of_others: np.ndarray
) -> np.ndarray:
    n_harmful = int(is_harmful.sum())
    if min(n_harmful, len(looks) - n_harmful) < FEWEST_OF_A_KIND:
        return np.full(len(of_others), (n_harmful + 1) / (len(looks) + 2))
    if not len(of_others):
        return np.empty(0)
    model = _additive_model(len(looks)).fit(looks, is_harmful)
    return np.asarray(model.predict_proba(of_others)[:, 1])


def _additive_model(n_samples: int) -> Pipeline:
    """Return a smooth curve per column, on the scale of ranks."""
    return make_pipeline(
        QuantileTransformer(n_quantiles=min(200, n_samples), subsample=None),
        SplineTransformer(n_knots=6, degree=2),
        LogisticRegression(C=0.3, max_iter=200),
    )
