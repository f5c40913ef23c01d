"""Curvature of a loss by the outputs of a net, and its substitute where there is none.

Criteria of users may have kinks, or be bounded; then the second derivative is zero or
negative where samples are predicted badly, and there is nothing to solve with.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from sk_datadrop._derivatives import is_out_of_memory, pullback
from sk_datadrop._functional import FEW_SAMPLES, FunctionalNet
from sk_datadrop._samples import Samples

_MOST_TO_LOOK_AT = 256
_N_DIRECTIONS = 4
_LARGEST_CONCAVITY = 0.01
"""Negative curvature by the outputs, as a share of the positive. It is tiny for focal
losses, and 0.02 to 7 for bounded ones, which makes scores worse than no curvature."""


def output_hessian(net: FunctionalNet, z: Tensor, y: Tensor) -> Callable[..., Tensor]:
    """Return v -> H v, H being the Hessian of the summed loss by natural outputs z.

    It is symmetric, so its vector-Jacobian product serves.
    """

    def gradient(z: Tensor) -> Tensor:
        loss = net.natural_losses(z, y).sum()
        return torch.autograd.grad(loss, z, create_graph=True)[0]

    return pullback(gradient, z)[1]


def is_flat(net: FunctionalNet, samples: Samples) -> bool:
    """Tell whether a loss has no second derivative by the outputs, or only zero.

    That of a net which is saturated is zero too, and nothing is to stand for it: a
    loss is flat if it is so at outputs that have nothing to do with the net.
    """
    for part in (samples[:FEW_SAMPLES], samples):
        found = list(second_derivatives(net, part))
        if any(along is None for along in found):
            return True
        if any(along is not None and bool(along.any()) for along in found):
            return False
    elsewhere = second_derivatives(net, samples, at_random=True)
    return all(along is not None and not along.any() for along in elsewhere)


@torch.no_grad()
def is_concave(net: FunctionalNet, samples: Samples) -> bool:
    """Tell whether the loss has negative curvature by the outputs that counts.

    All that it has along some directions, the same for every sample, against all that
    is positive.
    """
    if net.is_convex:
        return False
    positive = negative = 0.0
    for X, y in net.batches(samples[:_MOST_TO_LOOK_AT]):
        z = net.natural_outputs(net.theta, X)
        hessian = output_hessian(net, z, y)
        generator = torch.Generator().manual_seed(0)
        for _ in range(_N_DIRECTIONS):
            u = torch.randn(z.shape[1:], generator=generator).to(z).expand_as(z)
            along = (u * hessian(u.contiguous())).reshape(len(z), -1).double().sum(1)
            positive += float(along.clamp(min=0).sum())
            negative -= float(along.clamp(max=0).sum())
    return negative > _LARGEST_CONCAVITY * positive


@torch.no_grad()
def second_derivatives(
    net: FunctionalNet, samples: Samples, *, at_random: bool = False
) -> Iterator[Tensor | None]:
    """Yield second derivatives of the loss by the outputs, along a random direction.

    They are taken at the outputs of the net, or at random ones. None where there are
    none: torch does not have them all, and custom functions may have no other than the
    first.
    """
    generator = torch.Generator().manual_seed(0)
    for X, y in net.batches(samples):
        z = net.natural_outputs(net.theta, X)
        if at_random:
            z = torch.randn(z.shape, generator=generator).to(z)
        # Along the same direction in all outputs a softmax has none.
        direction = torch.randn(z.shape, generator=generator).to(z)
        try:
            yield output_hessian(net, z, y)(direction)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            yield None


@torch.enable_grad()
def expected_curvature(net: FunctionalNet, samples: Samples) -> float:
    """Return the second derivative by an output that a likelihood would have.

    For a loss that is minus a log-likelihood times a dispersion it is, on average, the
    squared gradient over the dispersion: Fisher's information. The dispersion is the
    median loss, or the mean where that is zero, per output.
    """
    losses, squares = [], []
    for X, y in net.batches(samples):
        z = net.natural_outputs(net.theta, X).detach().requires_grad_()
        of_samples = net.natural_losses(z, y)
        gradients = torch.autograd.grad(of_samples.sum(), z)[0]
        losses.append(of_samples.detach().double() / z[0].numel())
        squares.append(gradients.double().square().flatten(1).mean(1))
    of_all = torch.cat(losses)
    dispersion = float(of_all.median()) or float(of_all.mean())
    if dispersion < 0:
        # A density, whose logarithm has no other factor.
        dispersion = 1.0
    return float(torch.cat(squares).mean()) / dispersion if dispersion > 0 else 0.0
