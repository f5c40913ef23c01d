"""Nets: shapes, and that skorch can train them."""

import numpy as np
import pytest
import torch
from skorch import NeuralNetRegressor

from sk_datadrop.nets import DnCNN, SmallCNN


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize(
    ("n_dims", "shape"), [(1, (2, 30)), (2, (3, 13, 17)), (3, (1, 8, 8, 8))]
)
def test_small_cnn_sizes_itself(n_dims, shape, batch_norm):
    net = SmallCNN(n_outputs=4, n_dims=n_dims, batch_norm=batch_norm)
    assert net(torch.zeros(5, *shape)).shape == (5, 4)
    assert any("Norm" in type(m).__name__ for m in net.modules()) == batch_norm


def test_small_cnn_refuses_other_dimensions():
    with pytest.raises(ValueError, match="n_dims must be 1, 2 or 3; got 4"):
        SmallCNN(n_dims=4)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_dncnn_keeps_the_shape(batch_norm):
    net = DnCNN(depth=4, width=6, n_channels=3, batch_norm=batch_norm)
    assert net(torch.zeros(2, 3, 10, 12)).shape == (2, 3, 10, 12)
    convolutions = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [6, 6, 6, 3]


def test_dncnn_is_residual():
    net, X = DnCNN(depth=2), torch.rand(2, 1, 8, 8)
    for parameter in net.parameters():
        torch.nn.init.zeros_(parameter)
    assert torch.equal(net(X), X)


def test_dncnn_refuses_a_single_layer():
    with pytest.raises(ValueError, match="depth must be at least 2; got 1"):
        DnCNN(depth=1)


def test_dncnn_learns_to_denoise():
    rng = np.random.default_rng(0)
    clean = np.ones((64, 1, 8, 8), dtype=np.float32) * rng.random((64, 1, 1, 1))
    clean = clean.astype(np.float32)
    noisy = clean + 0.2 * rng.standard_normal(clean.shape, dtype=np.float32)
    torch.manual_seed(0)
    net = NeuralNetRegressor(
        DnCNN,
        module__depth=3,
        module__width=8,
        optimizer=torch.optim.Adam,
        lr=0.01,
        max_epochs=20,
        batch_size=16,
        train_split=None,
        verbose=0,
    ).fit(noisy, clean)
    assert np.mean((net.predict(noisy) - clean) ** 2) < 0.5 * 0.2**2
