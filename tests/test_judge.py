"""The chance of harm, on evidence built by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import expit, log_softmax, logit
from sklearn.metrics import roc_auc_score

from sk_datadrop import _judge
from sk_datadrop._drop import mean_influence
from sk_datadrop._judge import (
    LARGEST_CERTAINTY,
    Evidence,
    Predictions,
    _out_of_fold,
    _told_by_other_splits,
    _told_by_predictions,
    chance_of_harm,
)
from sk_datadrop._valleys import chance_beyond_valley


def labels(
    n=600,
    *,
    share=0.2,
    n_splits=5,
    n_classes=3,
    effect=1.0,
    spread=1.0,
    sure=4.0,
    seed=0,
):
    """Return evidence of classes, and whose label is wrong.

    Influence of a wrong label is `effect` below zero, of a right one above, and spreads
    independently over the splits. A prediction is right by `sure` in logits, which
    spread by one.
    """
    rng = np.random.default_rng(seed)
    true = rng.integers(n_classes, size=n)
    is_wrong = rng.random(n) < share
    codes = np.where(is_wrong, (true + 1) % n_classes, true)
    influence = np.where(is_wrong, -effect, effect) + spread * rng.normal(
        size=(n_splits, n)
    )
    held_out = rng.permutation(n) % n_splits == np.arange(n_splits)[:, None]
    losses, predictions = np.empty((n_splits, n)), []
    for split in range(n_splits):
        scores = sure * np.eye(n_classes)[true] + rng.normal(size=(n, n_classes))
        log_proba = log_softmax(scores, axis=1)
        losses[split] = -log_proba[np.arange(n), codes]
        predictions += [
            Predictions(split, rows, log_proba[rows])
            for rows in map(np.flatnonzero, (~held_out[split], held_out[split]))
        ]
    splits = np.arange(n_splits)
    return Evidence(influence, splits, held_out, losses, predictions, codes), is_wrong


def numbers(n=800, *, n_splits=4, seed=0, errors=None, influence=None):
    """Return evidence of real targets, by their errors, (n_samples,), and influence.

    By default both are noise: no sample is of another kind.
    """
    rng = np.random.default_rng(seed)
    errors = rng.normal(size=n) if errors is None else errors
    influence = rng.normal(size=n) if influence is None else influence
    held_out = rng.permutation(n) % n_splits == np.arange(n_splits)[:, None]
    return Evidence(
        influence + 0.3 * rng.normal(size=(n_splits, n)),
        np.arange(n_splits),
        held_out,
        (errors + 0.05 * rng.normal(size=(n_splits, n))) ** 2,
        [],
    )


KINDS_OF_PREDICTION = ["held out", "trained on", "all"]


def changed(evidence, **parts):
    return Evidence(**{**vars(evidence), **parts})


def of_rows(evidence, order):
    """Return the evidence of samples in another order."""
    position = np.argsort(order)
    return Evidence(
        evidence.influence_per_view[:, order],
        evidence.split_of_view,
        evidence.held_out[:, order],
        evidence.losses[:, order],
        [Predictions(s, position[r], lp) for s, r, lp in evidence.predictions],
        None if evidence.codes is None else evidence.codes[order],
    )


class TestEvidence:
    @pytest.mark.parametrize(
        ("of", "n_missing"), [("held out", 4), ("trained on", 4), ("all", 1)]
    )
    def test_mean_of_the_predictions_is_that_of_pandas(self, of, n_missing):
        """Some samples are held out more than once, and some by no split."""
        rng = np.random.default_rng(0)
        which = np.zeros((3, 10), dtype=bool)
        predictions = []
        for split, rows in enumerate([np.r_[0:6], np.r_[8, 2, 5], np.r_[5:9]]):
            which[split, rows[::2]] = True
            log_proba = np.log(rng.dirichlet(np.ones(3), len(rows)))
            predictions.append(Predictions(split, rows, log_proba))
        empty = np.full((3, 10), np.nan)
        evidence = Evidence(empty, np.arange(3), which, empty, predictions)
        wanted = {"held out": which, "trained on": ~which, "all": which | True}[of]
        frames = [
            pd.DataFrame(log_proba, index=rows)[wanted[split, rows]]
            for split, rows, log_proba in predictions
        ]
        expected = pd.concat(frames).groupby(level=0).mean().reindex(range(10))
        assert expected.isna().all(axis=1).sum() == n_missing
        np.testing.assert_allclose(evidence.log_proba(of), expected)

    def test_a_class_that_is_ruled_out_counts_as_very_unlikely(self):
        evidence, _ = labels(n=4, n_splits=1, n_classes=2)
        sure = [Predictions(0, np.arange(4), np.array([[0, -np.inf]] * 4))] * 2
        evidence = changed(evidence, predictions=sure)
        assert evidence.held_out.all()
        for of in ("held out", "all"):
            found = evidence.log_proba(of)
            np.testing.assert_array_equal(found, [[0, -50]] * 4)

    def test_without_predictions_there_is_no_mean(self):
        for of in KINDS_OF_PREDICTION:
            assert numbers(20).log_proba(of) is None

    def test_influence_is_the_mean_over_the_views(self):
        evidence, _ = labels(n=30)
        evidence.influence_per_view[1, 3] = np.nan
        np.testing.assert_allclose(
            evidence.influence, np.nanmean(evidence.influence_per_view, axis=0)
        )

    @pytest.mark.parametrize("number", range(4))
    def test_without_a_split_is_built_without_it(self, number):
        """Views of the splits are mixed up, and of unequal number."""
        split_of_view = np.array([2, 0, 1, 3, 0, 2, 2])
        evidence, _ = labels(n=40, n_splits=4)
        views = np.random.default_rng(1).normal(size=(7, 40))
        evidence = changed(
            evidence, influence_per_view=views, split_of_view=split_of_view
        )
        rest = evidence.without_split(number)
        others = [split for split in range(4) if split != number]
        np.testing.assert_array_equal(rest.losses, evidence.losses[others])
        np.testing.assert_array_equal(rest.held_out, evidence.held_out[others])
        np.testing.assert_array_equal(
            rest.influence_per_view, views[split_of_view != number]
        )
        # The views of a split still are those of its training.
        assert [others[s] for s in rest.split_of_view] == [
            s for s in split_of_view if s != number
        ]
        assert [others[p.split] for p in rest.predictions] == list(np.repeat(others, 2))
        for of in KINDS_OF_PREDICTION:
            of_others = [p for p in evidence.predictions if p.split != number]
            expected = changed(evidence, predictions=of_others)
            np.testing.assert_array_equal(rest.log_proba(of), expected.log_proba(of))
        np.testing.assert_array_equal(rest.codes, evidence.codes)
        assert evidence.losses.shape == (4, 40)


class TestLabels:
    def test_wrong_labels_are_found(self):
        evidence, is_wrong = labels()
        chance = chance_of_harm(evidence)
        assert ((chance >= 0) & (chance <= 1)).all()
        assert np.mean(chance[is_wrong] > 0.5) > 0.95
        assert np.mean(chance[~is_wrong] > 0.5) < 0.02

    @pytest.mark.parametrize("spread", [0.3, 1.0, 4.0])
    def test_nothing_is_found_in_clean_samples(self, spread):
        evidence, _ = labels(share=0.0, spread=spread)
        assert (chance_of_harm(evidence) < 0.5).all()

    def test_clean_but_hard_samples_are_not_found(self):
        """The nets are right three times of four, as they say themselves."""
        rng = np.random.default_rng(0)
        log_proba = log_softmax(4 * rng.normal(size=(2000, 10)), axis=1)
        draws = rng.random((2000, 1))
        codes = (draws > np.exp(log_proba).cumsum(axis=1)[:, :-1]).sum(axis=1)
        assert np.mean(log_proba.argmax(axis=1) == codes) < 0.78
        evidence, _ = labels(n=2000, share=0.0)
        evidence = changed(
            evidence,
            losses=np.tile(-log_proba[np.arange(2000), codes], (5, 1)),
            predictions=[Predictions(0, np.arange(2000), log_proba)],
            codes=codes,
        )
        assert np.mean(chance_of_harm(evidence) > 0.5) < 0.005

    def test_few_distinct_inputs_are_no_clusters(self):
        """Eight of them, with honest labels that the nets know the chances of."""
        flagged = []
        for seed in range(3):
            rng = np.random.default_rng(seed)
            chance = rng.choice([-1, 1], 8) * rng.uniform(0.1, 0.45, 8) + 0.5
            kind = rng.integers(8, size=2000)
            codes = (rng.random(2000) < chance[kind]).astype(int)
            log_proba = np.log(np.column_stack([1 - chance, chance]))[kind]
            evidence, _ = labels(n=2000, share=0.0, n_classes=2, seed=seed)
            evidence = changed(
                evidence,
                losses=np.tile(-log_proba[np.arange(2000), codes], (5, 1)),
                predictions=[Predictions(0, np.arange(2000), log_proba)],
                codes=codes,
            )
            flagged.append(np.mean(chance_of_harm(evidence) > 0.5))
        assert max(flagged) < 0.05

    def test_two_witnesses_meet_on_the_scale_of_log_odds(self):
        """They are a split's word and the predictions', and neither is certain."""
        evidence, _ = labels(effect=0.5, spread=2.0, sure=1.5)
        assert not chance_beyond_valley(evidence.losses.mean(axis=0)).any()
        low, high = 1 - LARGEST_CERTAINTY, LARGEST_CERTAINTY
        influence = np.clip(_told_by_other_splits(evidence), low, high)
        predictions = np.clip(_told_by_predictions(evidence), low, high)
        expected = expit((logit(influence) + logit(predictions)) / 2)
        np.testing.assert_allclose(chance_of_harm(evidence), expected)
        assert np.ptp(influence) > 0.3
        assert np.ptp(predictions) > 0.3

    def test_no_witness_overrules_the_other_whatever_it_says(self):
        """Wrong by all predictions, and helpful by all influence, is a draw."""
        evidence, is_wrong = labels(spread=0.1)
        evidence = changed(
            evidence, influence_per_view=abs(evidence.influence_per_view)
        )
        told = _told_by_predictions(evidence)
        assert np.median(told[is_wrong]) > LARGEST_CERTAINTY
        assert (_told_by_other_splits(evidence) < 1 - LARGEST_CERTAINTY).all()
        evidence = changed(evidence, losses=np.ones_like(evidence.losses))
        chance = chance_of_harm(evidence)
        assert chance[is_wrong].max() == pytest.approx(0.5)

    def test_a_cluster_of_losses_counts_by_itself(self):
        """Neither influence nor predictions show the fifth that is of another kind."""
        evidence, is_odd = labels()
        evidence = changed(
            evidence,
            influence_per_view=abs(evidence.influence_per_view),
            predictions=[],
            codes=np.zeros(600, dtype=int),
        )
        told = chance_of_harm(evidence)
        assert np.mean(told[is_odd] > 0.5) > 0.9
        flat = changed(evidence, losses=np.ones_like(evidence.losses))
        assert (chance_of_harm(flat) < 0.5).all()

    def test_losses_are_those_of_samples_trained_on(self):
        """A cluster among held-out ones is none, and hides none."""
        evidence, _ = labels(share=0.0)
        is_odd = np.arange(600) < 60
        shows = np.where(is_odd, 50.0, evidence.losses)
        where = evidence.held_out
        held_out = changed(evidence, losses=np.where(where, shows, evidence.losses))
        assert (chance_of_harm(held_out) < 0.5).all()
        trained = changed(evidence, losses=np.where(where, evidence.losses, shows))
        np.testing.assert_array_equal(chance_of_harm(trained) > 0.5, is_odd)

    def test_losses_differ_by_what_they_are_not_by_their_logarithm(self):
        """Next to none and next to none a hundred times over are the same."""
        evidence, _ = labels(share=0.0)
        rng = np.random.default_rng(0)
        losses = 1e-6 * np.exp(0.3 * rng.normal(size=600))
        losses[:100] *= 100
        losses[0] = 5.0
        assert np.sum(chance_beyond_valley(np.log(losses)) > 0.5) >= 100
        small = changed(evidence, losses=np.tile(losses, (5, 1)))
        assert np.sum(chance_of_harm(small) > 0.5) <= 1

    def test_nets_that_memorise_do_not_hide_how_many_labels_are_wrong(self):
        """Those that were trained on a sample predict its given label."""
        evidence, is_wrong = labels(n=1000, sure=3.0)
        memorised = [
            p
            if evidence.held_out[p.split, p.rows].all()
            else p._replace(
                log_proba=log_softmax(
                    p.log_proba + 1.5 * np.eye(3)[evidence.codes[p.rows]], axis=1
                )
            )
            for p in evidence.predictions
        ]
        told = _told_by_predictions(changed(evidence, predictions=memorised))
        assert told.mean() == pytest.approx(is_wrong.mean(), abs=0.03)
        held_out = [p for p in memorised if evidence.held_out[p.split, p.rows].all()]
        of_held_out = _told_by_predictions(changed(evidence, predictions=held_out))
        assert told.sum() == pytest.approx(of_held_out.sum(), rel=0.1)
        # Five nets know better than one.
        assert roc_auc_score(is_wrong, told) > roc_auc_score(is_wrong, of_held_out)

    @pytest.mark.parametrize("n_classes", [1, 2])
    def test_samples_that_no_split_predicts(self, n_classes):
        evidence, _ = labels(n_classes=max(n_classes, 2))
        told = _told_by_predictions(changed(evidence, predictions=[]))
        np.testing.assert_array_equal(told, np.full(600, 0.5))
        first = evidence.predictions[0]
        told = _told_by_predictions(changed(evidence, predictions=[first]))
        is_predicted = np.isin(np.arange(600), first.rows)
        assert not evidence.held_out[0, first.rows].any()
        np.testing.assert_array_equal(told[~is_predicted], 0.5)
        assert (told[is_predicted] != 0.5).all()

    @pytest.mark.parametrize("sizes", [[60, 1], [30, 1, 1], [1, 1], [5]])
    def test_classes_of_one_sample(self, sizes):
        n, n_classes = sum(sizes), max(len(sizes), 2)
        evidence, _ = labels(n=n, share=0.0, n_splits=2, n_classes=n_classes)
        codes = np.repeat(np.arange(len(sizes)), sizes)
        chance = chance_of_harm(changed(evidence, codes=codes))
        assert ((chance >= 0) & (chance <= 1)).all()


class TestOtherSplits:
    """The chance that a split finds harm, told from all other splits."""

    def weak(self, seed=0):
        """Return evidence of influence alone, and whose is below zero."""
        evidence, is_wrong = labels(n=2000, spread=1.0, seed=seed)
        return changed(evidence, losses=np.ones_like(evidence.losses)), is_wrong

    def test_pooled_samples_are_found_where_single_ones_are_not(self):
        evidence, is_wrong = self.weak()
        p = stats.ttest_1samp(evidence.influence_per_view, 0, alternative="less").pvalue
        by_test = stats.false_discovery_control(p) < 0.2
        assert by_test[is_wrong].mean() < 0.2
        chance = _told_by_other_splits(evidence)
        assert np.mean(chance[is_wrong] > 0.5) > 0.8
        assert np.mean(is_wrong[chance > 0.5]) > 0.9

    def test_the_chance_is_that_of_one_more_split(self):
        """A new split finds as many harmful, of samples that look alike."""
        evidence, is_wrong = self.weak()
        chance = _told_by_other_splits(evidence)
        rng = np.random.default_rng(5)
        new = np.where(is_wrong, -1.0, 1.0) + rng.normal(size=2000) < 0
        bins = pd.cut(chance, [0, 0.2, 0.4, 0.6, 0.8, 1])
        found = pd.DataFrame({"chance": chance, "new": new}).groupby(
            bins, observed=True
        )
        mean, n = found.mean(), found.size()
        error = 3 * np.sqrt(mean["new"] * (1 - mean["new"]) / n) + 0.05
        assert (abs(mean["chance"] - mean["new"]) < error).all()

    def test_splits_that_disagree_tell_nothing(self):
        """Each sign is a coin."""
        views = np.random.default_rng(0).normal(size=(5, 2000))
        evidence, _ = labels(n=2000)
        evidence = changed(
            evidence, influence_per_view=views, losses=np.ones((5, 2000))
        )
        chance = _told_by_other_splits(evidence)
        assert abs(chance - 0.5).max() < 0.15
        assert views.mean(axis=0).min() < -1

    def test_looks_of_the_losses_tell_too(self):
        """Influence is a coin but for the samples of large losses."""
        rng = np.random.default_rng(0)
        is_large = np.arange(1000) < 150
        views = rng.normal(size=(5, 1000)) - is_large
        evidence, _ = labels(n=1000)
        losses = np.tile(1.0 + rng.random(1000) + is_large, (5, 1))
        with_losses = changed(evidence, influence_per_view=views, losses=losses)
        chance = _told_by_other_splits(with_losses)
        assert chance[is_large].mean() > 0.75
        assert chance[~is_large].mean() < 0.55

    def test_extremes_tell_too(self):
        """Splits agree on one of two kinds with the same mean, and not on the other.

        Without the extremes, the chance is 0.23 for both.
        """
        rng = np.random.default_rng(0)
        is_coin = np.arange(4000) < 2000
        near = rng.uniform(-0.05, 0.35, size=(5, 4000))
        far = rng.choice([-3, 3], size=(5, 4000)) + rng.uniform(0, 0.3, (5, 4000))
        views = np.where(is_coin, far, near)
        evidence, _ = labels(n=4000)
        evidence = changed(
            evidence, influence_per_view=views, losses=np.ones((5, 4000))
        )
        chance = _told_by_other_splits(evidence)
        assert chance[~is_coin].mean() == pytest.approx(0.125, abs=0.04)
        alike = is_coin & (abs(views.mean(axis=0)) < 1)
        assert chance[alike].mean() == pytest.approx(0.5, abs=0.1)

    @pytest.mark.parametrize("row", [0, 7, 300])
    def test_no_split_tells_of_itself(self, row):
        """One split scored the sample: whatever it found, the chance is the same."""
        evidence, _ = labels()
        evidence.influence_per_view[1:, row] = np.nan
        evidence.losses[1:, row] = np.nan
        other = evidence.influence_per_view.copy()
        # Its size would change the units of the split.
        other[0, row] *= -1
        again = changed(evidence, influence_per_view=other)
        told, of_other = map(_told_by_other_splits, (evidence, again))
        assert told[row] == of_other[row]
        # Others learn from it.
        assert (told != of_other).sum() > 100
        losses = evidence.losses.copy()
        losses[0, row] += 100
        told_of_losses = _told_by_other_splits(changed(evidence, losses=losses))
        assert told_of_losses[row] == told[row]

    @pytest.mark.parametrize("split", [0, 3])
    def test_looks_are_those_of_the_others(self, split, monkeypatch):
        """Evidence for a split does not change with the scores of that split."""
        evidence, _ = labels()
        seen = []

        def record(looks, is_harmful):
            seen.append(looks)
            return np.zeros(len(looks))

        monkeypatch.setattr(_judge, "_out_of_fold", record)
        _told_by_other_splits(evidence)
        views, losses = evidence.influence_per_view.copy(), evidence.losses.copy()
        views[split, 5] *= -1
        losses[split, 5] += 1
        again = changed(evidence, influence_per_view=views, losses=losses)
        _told_by_other_splits(again)
        for number in range(5):
            same = np.array_equal(seen[number], seen[5 + number])
            assert same == (number == split)

    def test_the_model_has_not_seen_the_sample(self):
        rng = np.random.default_rng(0)
        looks, is_harmful = rng.normal(size=(90, 5)), rng.random(90) < 0.4
        chance = _out_of_fold(looks, is_harmful)
        for row in (0, 1, 2, 50):
            flipped = is_harmful.copy()
            flipped[row] = ~flipped[row]
            again = _out_of_fold(looks, flipped)
            same = again == chance
            assert same[row]
            # Those of the same third; all others have learned from it.
            assert same.sum() == 30

    def test_many_samples_are_thinned_out(self, monkeypatch):
        evidence, is_wrong = self.weak()
        monkeypatch.setattr(_judge, "MOST_SAMPLES_TO_FIT", 500)
        sizes, original = [], _judge._predict

        def record(looks, is_harmful, of_others):
            sizes.append(len(looks))
            return original(looks, is_harmful, of_others)

        monkeypatch.setattr(_judge, "_predict", record)
        chance = _told_by_other_splits(evidence)
        assert len(sizes) == 15
        assert max(sizes) <= 500
        assert np.mean(chance[is_wrong] > 0.5) > 0.8

    def test_too_few_of_a_kind_teach_nothing(self):
        """All samples get the share of the harmful ones then."""
        rng = np.random.default_rng(0)
        looks, is_harmful = rng.normal(size=(60, 5)), np.arange(60) < 4
        chance = _out_of_fold(looks, is_harmful)
        assert len(np.unique(chance)) <= 3
        np.testing.assert_allclose(chance, 5 / 62, atol=0.06)

    def test_a_single_view_has_but_its_sign(self):
        evidence, _ = labels(n_splits=1)
        np.testing.assert_array_equal(
            _told_by_other_splits(evidence),
            np.where(evidence.influence < 0, LARGEST_CERTAINTY, 1 - LARGEST_CERTAINTY),
        )

    @pytest.mark.parametrize("n_splits", [1, 4])
    def test_no_influence_at_all_is_no_opinion(self, n_splits):
        """It is that of a saturated net, and the predictions decide."""
        evidence, is_wrong = labels(n_splits=n_splits)
        evidence.influence_per_view[:] = 0
        np.testing.assert_array_equal(_told_by_other_splits(evidence), 0.5)
        found = chance_of_harm(evidence) > 0.5
        np.testing.assert_array_equal(found, _told_by_predictions(evidence) > 0.5)
        assert found[is_wrong].mean() > 0.9

    def test_a_split_without_influence_has_no_say(self):
        evidence, is_wrong = labels()
        without = _told_by_other_splits(evidence.without_split(4))
        evidence.influence_per_view[4] = 0
        chance = _told_by_other_splits(evidence)
        assert np.abs(chance - without).mean() < 0.03
        assert np.mean((chance > 0.5) == is_wrong) > 0.9

    def test_views_of_a_single_split_are_told_from_each_other(self):
        evidence, is_wrong = labels(n_splits=8)
        single = changed(
            evidence,
            split_of_view=np.zeros(8, dtype=int),
            held_out=np.zeros((1, 600), dtype=bool),
            losses=evidence.losses.mean(axis=0)[None],
            predictions=[p._replace(split=0) for p in evidence.predictions],
        )
        chance = _told_by_other_splits(single)
        assert np.mean(chance[is_wrong] > 0.5) > 0.95
        assert np.mean(chance[~is_wrong] > 0.5) < 0.02
        assert np.mean((chance_of_harm(single) > 0.5) == is_wrong) > 0.97

    def test_views_of_a_split_count_once(self):
        """Two views that share a training say nothing of each other."""
        evidence, _ = labels(n_splits=3)
        rng = np.random.default_rng(0)
        noise = rng.normal(size=(3, 600))
        views = evidence.influence_per_view
        twice = changed(
            evidence,
            influence_per_view=np.concatenate([views + noise, views - noise]),
            split_of_view=np.tile(np.arange(3), 2),
        )
        np.testing.assert_allclose(
            _told_by_other_splits(twice), _told_by_other_splits(evidence), atol=1e-6
        )

    def test_samples_that_no_split_scored(self):
        evidence, _ = labels()
        evidence.influence_per_view[:, 3] = np.nan
        assert _told_by_other_splits(evidence)[3] == 0.5
        chance = chance_of_harm(evidence)
        np.testing.assert_array_equal(np.flatnonzero(np.isnan(chance)), [3])


class TestNumbers:
    """Targets that are no classes: clusters are all there is."""

    def test_nothing_is_found_in_noise(self):
        for seed in range(10):
            np.testing.assert_array_equal(chance_of_harm(numbers(seed=seed)), 0)

    @pytest.mark.parametrize("split_kind", ["trained on", "held out"])
    def test_errors_of_both_signs_are_found_by_their_losses(self, split_kind):
        """Memorised ones show in the losses of samples held out only."""
        rng = np.random.default_rng(1)
        is_wrong = rng.random(800) < 0.1
        errors = rng.normal(size=800)
        spoilt = errors + np.where(is_wrong, 8 * rng.choice([-1, 1], size=800), 0)
        evidence, clean = numbers(errors=spoilt), numbers(errors=errors)
        shows = evidence.held_out == (split_kind == "held out")
        evidence = changed(
            evidence, losses=np.where(shows, evidence.losses, clean.losses)
        )
        chance = chance_of_harm(evidence)
        assert np.mean(chance[is_wrong] > 0.5) > 0.95
        assert np.mean(chance[~is_wrong] > 0.5) < 0.01
        positive = is_wrong & (spoilt > 0)
        assert np.mean(chance[positive] > 0.5) > 0.9
        assert np.mean(chance[is_wrong & ~positive] > 0.5) > 0.9

    @pytest.mark.parametrize("tail", ["skewed", "heavy"])
    def test_a_tail_is_no_cluster(self, tail):
        for seed in range(5):
            rng = np.random.default_rng(seed)
            values = {
                "skewed": rng.lognormal(size=800),
                "heavy": rng.standard_t(2, size=800),
            }[tail]
            by_errors = numbers(errors=values - values.mean(), seed=seed)
            np.testing.assert_array_equal(chance_of_harm(by_errors), 0)
            by_influence = numbers(influence=-5 * values, seed=seed)
            np.testing.assert_array_equal(chance_of_harm(by_influence), 0)

    def test_a_cluster_of_harmful_influence_is_found(self):
        """Losses do not show it, and helpful samples of the same size are none."""
        rng = np.random.default_rng(0)
        is_odd = rng.random(800) < 0.1
        influence = rng.normal(size=800) - 40 * is_odd
        evidence = numbers(influence=influence)
        np.testing.assert_array_equal(chance_of_harm(evidence) > 0.5, is_odd)
        helpful = changed(evidence, influence_per_view=-evidence.influence_per_view)
        np.testing.assert_array_equal(chance_of_harm(helpful), 0)

    def test_an_extreme_one_hides_no_cluster(self):
        rng = np.random.default_rng(0)
        is_odd = rng.random(800) < 0.1
        influence = rng.normal(size=800) - 40 * is_odd
        influence[0] = -1e6
        is_odd[0] = True
        chance = chance_of_harm(numbers(influence=influence))
        np.testing.assert_array_equal(chance > 0.5, is_odd)

    @pytest.mark.parametrize("held_out", [True, False])
    def test_samples_that_all_splits_hold_out_or_none_does(self, held_out):
        """They are too few to tell a cluster from by themselves."""
        rng = np.random.default_rng(2)
        is_wrong = np.arange(800) % 10 == 0
        errors = rng.normal(size=800) + 15 * is_wrong
        evidence = numbers(errors=errors, n_splits=1)
        few = np.arange(800) % 40 < 2
        evidence = changed(evidence, held_out=(few == held_out)[None])
        chance = chance_of_harm(evidence)
        np.testing.assert_array_equal(chance[few] > 0.5, is_wrong[few])
        assert is_wrong[few].sum() == 20

    def test_splits_of_any_unit_have_the_same_word(self):
        """One split's influence is a million times as large."""
        rng = np.random.default_rng(0)
        is_odd = rng.random(800) < 0.1
        evidence = numbers(influence=rng.normal(size=800) - 40 * is_odd)
        evidence.influence_per_view[0] = 1e6 * rng.normal(size=800)
        chance = chance_of_harm(evidence)
        np.testing.assert_array_equal(chance > 0.5, is_odd)

    def test_losses_of_zero(self):
        """Their logarithm is taken."""
        evidence = numbers(200)
        for losses in (np.zeros((4, 200)), np.where(np.arange(200) < 9, 0, 1.0)):
            of_zeros = changed(
                evidence, losses=np.broadcast_to(losses, (4, 200)).astype(float)
            )
            np.testing.assert_array_equal(chance_of_harm(of_zeros), 0)


def wrong_numbers():
    rng = np.random.default_rng(1)
    errors = rng.normal(size=800) + 9 * (rng.random(800) < 0.1)
    return numbers(errors=errors)


@pytest.fixture(params=["classes", "numbers"])
def evidence(request):
    return wrong_numbers() if request.param == "numbers" else labels()[0]


class TestBoth:
    def test_something_is_found(self, evidence):
        assert 0.05 < np.mean(chance_of_harm(evidence) > 0.5) < 0.3

    def test_samples_that_are_not_scored(self, evidence):
        evidence.influence_per_view[:, [2, 9]] = np.nan
        evidence.losses[:, 2] = np.nan
        chance = chance_of_harm(evidence)
        np.testing.assert_array_equal(np.flatnonzero(np.isnan(chance)), [2, 9])
        evidence.influence_per_view[:] = np.nan
        assert np.isnan(chance_of_harm(evidence)).all()

    def test_some_splits_miss_some_samples(self, evidence):
        chance = chance_of_harm(evidence)
        rng = np.random.default_rng(0)
        missing = rng.random(evidence.losses.shape) < 0.1
        missing[0] = False
        evidence.influence_per_view[missing] = np.nan
        evidence.losses[missing] = np.nan
        again = chance_of_harm(evidence)
        assert np.mean((again > 0.5) == (chance > 0.5)) > 0.98

    def test_order_of_the_samples_does_not_matter(self, evidence):
        order = np.random.default_rng(2).permutation(evidence.losses.shape[1])
        np.testing.assert_allclose(
            chance_of_harm(of_rows(evidence, order)),
            chance_of_harm(evidence)[order],
            atol=1e-3,
        )

    def test_order_of_the_splits_does_not_matter(self, evidence):
        n_splits = len(evidence.losses)
        order = np.roll(np.arange(n_splits), 2)
        position = np.argsort(order)
        again = changed(
            evidence,
            # Views need not be in the order of the splits.
            influence_per_view=evidence.influence_per_view[::-1],
            split_of_view=position[evidence.split_of_view[::-1]],
            held_out=evidence.held_out[order],
            losses=evidence.losses[order],
            predictions=[
                Predictions(position[s], rows, log_proba)
                for s, rows, log_proba in evidence.predictions
            ],
        )
        np.testing.assert_allclose(
            chance_of_harm(again), chance_of_harm(evidence), atol=1e-3
        )

    @pytest.mark.parametrize("scale", [1e-12, 2.0**-9, 1e9])
    def test_scale_of_influence_does_not_matter(self, evidence, scale):
        views = scale * evidence.influence_per_view
        np.testing.assert_allclose(
            chance_of_harm(changed(evidence, influence_per_view=views)),
            chance_of_harm(evidence),
            atol=1e-3,
        )

    @pytest.mark.parametrize("influence", [0.0, -1.0, 1.0])
    def test_influence_that_is_the_same_everywhere(self, evidence, influence):
        views = np.full_like(evidence.influence_per_view, influence)
        chance = chance_of_harm(changed(evidence, influence_per_view=views))
        assert np.isfinite(chance).all()

    @pytest.mark.parametrize("n", range(4, 13))
    @pytest.mark.parametrize("n_splits", [1, 2, 3])
    def test_hardly_any_sample(self, n, n_splits):
        for found in (
            labels(n=n, n_splits=n_splits, n_classes=2)[0],
            numbers(n, n_splits=n_splits),
        ):
            chance = chance_of_harm(found)
            assert chance.shape == (n,)
            assert ((chance >= 0) & (chance <= 1)).all()


def test_nothing_in_the_evidence_is_changed():
    evidence, _ = labels()
    before = [np.copy(part) for part in (evidence.influence_per_view, evidence.losses)]
    chance_of_harm(evidence)
    np.testing.assert_array_equal(evidence.influence_per_view, before[0])
    np.testing.assert_array_equal(evidence.losses, before[1])
    np.testing.assert_array_equal(evidence.influence, mean_influence(before[0]))
