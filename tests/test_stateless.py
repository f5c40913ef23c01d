"""Copies of a module that no forward pass changes, with weights from elsewhere."""

import copy

import pytest
import torch
from conftest import MLP
from torch import nn
from torch.nn import functional as F

from sk_datadrop._stateless import (
    WithWeights,
    differentiable_kernels,
    names_by_place,
    stateless_copy,
)


def trainable(module):
    return {k: p for k, p in module.named_parameters() if p.requires_grad}


def test_the_copy_runs_in_evaluation_mode_and_the_module_stays_as_it_is():
    module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
    before = copy.deepcopy(module.state_dict())
    copied = stateless_copy(module, None)
    X = torch.randn(6, 4)
    assert torch.equal(copied(X), copied(X))
    assert all(part.training for part in module.modules())
    for state in (module.state_dict(), copied.state_dict()):
        torch.testing.assert_close(state, before, rtol=0, atol=0)
    assert copied[0].weight is not module[0].weight


def test_a_state_dict_replaces_weights_and_buffers():
    module = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    state = {k: v + 1 for k, v in module.state_dict().items()}
    copied = stateless_copy(module, state)
    torch.testing.assert_close(copied.state_dict(), state, rtol=0, atol=0)


def test_embeddings_are_not_scaled_by_batch():
    module = nn.Embedding(5, 3, scale_grad_by_freq=True, sparse=True)
    copied = stateless_copy(module, None)
    copied(torch.tensor([2, 2, 4])).sum().backward()
    expected = torch.zeros(5, 3)
    expected[2], expected[4] = 2, 1
    assert torch.equal(copied.weight.grad, expected)
    assert module.scale_grad_by_freq
    assert module.sparse


def test_embeddings_are_cut_to_their_largest_norm_once():
    module = nn.Embedding(5, 3, max_norm=0.5)
    before = module.weight.detach().clone()
    assert before.norm(dim=1).max() > 0.5
    copied = stateless_copy(module, None)
    cut = copied.weight.detach().clone()
    assert cut.norm(dim=1).max() <= 0.5 + 1e-6
    assert torch.equal(copied(torch.arange(5)), cut)
    assert torch.equal(copied.weight, cut)
    assert torch.equal(module.weight, before)
    torch.testing.assert_close(module(torch.arange(5)), cut)


def test_the_module_is_called_with_other_weights_and_keeps_its_own():
    module = MLP()
    X = torch.randn(6, 4)
    others = {k: torch.zeros_like(p) for k, p in module.named_parameters()}
    placed = WithWeights(module, others)
    assert not placed(X).any()
    assert module(X).any()
    # A penalty in `get_loss` sees these.
    assert all(
        a is b for a, b in zip(placed.parameters(), module.parameters(), strict=True)
    )


def test_tied_parameters_have_a_name_for_each_place():
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    module[1].weight = module[0].weight
    module[2].bias.requires_grad_(False)
    assert names_by_place(module, trainable(module)) == {
        "0.weight": "0.weight",
        "1.weight": "0.weight",
        "2.weight": "2.weight",
        "0.bias": "0.bias",
        "1.bias": "1.bias",
    }
    assert names_by_place(nn.Linear(1, 1), {}) == {}


@pytest.mark.parametrize("error", [None, ZeroDivisionError])
@pytest.mark.parametrize("is_recurrent", [False, True])
def test_kernels_without_a_derivative_are_off_within_the_block_only(
    is_recurrent, error
):
    def states():
        return (
            torch.backends.cudnn.enabled,
            torch.backends.mha.get_fastpath_enabled(),
            torch.backends.cuda.flash_sdp_enabled(),
            torch.backends.cuda.mem_efficient_sdp_enabled(),
        )

    before = states()
    assert before == (True,) * 4
    try:
        with differentiable_kernels(is_recurrent):
            # cuDNN has no derivative of recurrent layers in evaluation mode.
            assert states() == (not is_recurrent, False, False, False)
            if error is not None:
                raise error
    except ZeroDivisionError:
        pass
    assert states() == before


def test_attention_has_a_second_derivative_within_the_block():
    q = torch.randn(1, 1, 3, 4, requires_grad=True)
    with differentiable_kernels(is_recurrent=False):
        out = F.scaled_dot_product_attention(q, q, q).square().sum()
        (gradient,) = torch.autograd.grad(out, q, create_graph=True)
        (second,) = torch.autograd.grad(gradient.sum(), q)
    assert second.any()


class Spy(nn.BatchNorm1d):
    """Tells in which precision it is run."""

    def forward(self, X):
        self.dtype = X.dtype
        return super().forward(X)


def test_batch_norm_keeps_full_precision_under_autocast():
    module = stateless_copy(nn.Sequential(nn.Linear(4, 3), Spy(3)), None)
    X = torch.randn(6, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert module[0](X).dtype == torch.bfloat16
        assert module(X).dtype == torch.float32
    assert module[1].dtype == torch.float32
    # Where nobody asked for low precision, the dtype is the user's own.
    module.bfloat16()(X.bfloat16())
    assert module[1].dtype == torch.bfloat16
