"""Losses of perfect predictions, below which a criterion cannot go for a target."""

import torch
from torch import Tensor


def perfect_losses(criterion: torch.nn.Module, y: Tensor) -> Tensor | None:
    """Return the loss of each target, of the shape of y, predicted as it is.

    What a loss is above it is half the deviance, which is never negative. None where
    it is zero, or not known.
    """
    if not isinstance(criterion, torch.nn.PoissonNLLLoss):
        return None
    y = y.float()
    perfect = y - torch.xlogy(y, y)
    if criterion.full:
        # As torch approximates the logarithm of the factorial.
        stirling = torch.xlogy(y, y) - y + 0.5 * torch.log(2 * torch.pi * y)
        perfect = perfect + torch.where(y > 1, stirling, 0)
    return perfect
