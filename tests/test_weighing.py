"""Samples drawn by weight: how often, in which order, and from which generator."""

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Subset, TensorDataset

from sk_datadrop._weighing import WeightedIterator, WeightedOrder


def drawn(weights, n_draws, *, shuffle=True, seed=0, times=1):
    """How often each sample came, per epoch, (times, n_samples)."""
    order = WeightedOrder(np.asarray(weights, dtype=float), n_draws, shuffle=shuffle)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return np.stack(
            [np.bincount(list(order), minlength=len(weights)) for _ in range(times)]
        )


class TestWeightedOrder:
    def test_each_comes_as_often_as_its_weight_says(self):
        weights = np.array([1.0, 0.5, 0.1, 0.0, 0.9, 0.25])
        counts = drawn(weights, 6, times=4000).mean(axis=0)
        expected = 6 * weights / weights.sum()
        np.testing.assert_allclose(counts, expected, atol=0.04)

    def test_give_or_take_one(self):
        weights = np.random.default_rng(0).random(200)
        counts = drawn(weights, 500, times=20)
        expected = 500 * weights / weights.sum()
        assert (abs(counts - expected) < 1 + 1e-9).all()
        assert (counts.sum(axis=1) == 500).all()

    @pytest.mark.parametrize("shuffle", [True, False])
    def test_of_equal_weights_each_comes_once(self, shuffle):
        np.testing.assert_array_equal(drawn(np.ones(50), 50, shuffle=shuffle), 1)

    def test_a_weight_of_zero_never_comes(self):
        weights = np.r_[np.zeros(10), np.ones(10)]
        assert drawn(weights, 20, times=50)[:, :10].sum() == 0

    def test_shuffled_or_in_order(self):
        weights = np.random.default_rng(0).random(300)
        for shuffle in (True, False):
            order = list(WeightedOrder(weights, 300, shuffle=shuffle))
            assert (order == sorted(order)) is not shuffle

    def test_epochs_differ_and_seeds_repeat(self):
        weights = np.random.default_rng(0).random(100)
        first, second = drawn(weights, 100, times=2)
        assert (first != second).any()
        np.testing.assert_array_equal(first, drawn(weights, 100)[0])
        assert (first != drawn(weights, 100, seed=1)[0]).any()


class TestWeightedIterator:
    def dataset(self, n=40):
        return TensorDataset(torch.arange(n), torch.zeros(n))

    def rows(self, loader):
        return torch.cat([X for X, _ in loader]).numpy()

    @pytest.mark.parametrize(("same_steps", "n_draws"), [(True, 40), (False, 10)])
    def test_as_many_as_before_or_as_the_weights_add_up_to(self, same_steps, n_draws):
        weights = np.full(40, 0.25)
        make = WeightedIterator(DataLoader, weights, same_steps=same_steps)
        loader = make(self.dataset(), batch_size=8, shuffle=True)
        assert len(self.rows(loader)) == n_draws
        assert loader.batch_size == 8

    @pytest.mark.parametrize("shuffle", [True, False])
    def test_order_is_that_of_the_net(self, shuffle):
        make = WeightedIterator(DataLoader, np.ones(40), same_steps=True)
        rows = self.rows(make(self.dataset(), batch_size=8, shuffle=shuffle))
        assert (list(rows) == list(range(40))) is not shuffle

    def test_what_is_withheld_takes_its_weights_along(self):
        weights = np.r_[np.zeros(20), np.ones(20)]
        make = WeightedIterator(DataLoader, weights, same_steps=True)
        rows = self.rows(make(Subset(self.dataset(), list(range(10, 30)))))
        assert len(rows) == 20
        assert set(rows) == set(range(20, 30))

    def test_parts_of_parts(self):
        weights = np.r_[np.zeros(20), np.ones(20)]
        make = WeightedIterator(DataLoader, weights, same_steps=True)
        reversed_part = Subset(self.dataset(), list(range(39, -1, -1)))
        rows = self.rows(make(Subset(reversed_part, list(range(30)))))
        assert set(rows) == set(range(20, 40))

    def test_a_part_that_does_not_tell_which_is_refused(self):
        make = WeightedIterator(DataLoader, np.ones(40), same_steps=True)
        with pytest.raises(ValueError, match="trains on 30 of 40 samples, and does"):
            make(self.dataset(30))

    @pytest.mark.parametrize("name", ["sampler", "batch_sampler"])
    def test_a_sampler_of_the_nets_own_is_refused(self, name):
        make = WeightedIterator(DataLoader, np.ones(40), same_steps=True)
        with pytest.raises(ValueError, match=f"the net has an iterator_train__{name}"):
            make(self.dataset(), **{name: [[0], [1]]})

    def test_goes_to_other_processes(self):
        make = WeightedIterator(DataLoader, np.ones(40), same_steps=True)
        again = pickle.loads(pickle.dumps(make))
        assert len(self.rows(again(self.dataset()))) == 40
