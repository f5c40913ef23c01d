"""Derivatives of functions of one flat vector, along directions and backwards."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.graph import saved_tensors_hooks

Function = Callable[..., Any]

TOLERANCE = 0.02
"""Relative difference from the gradients at which a derivative counts as wrong.

Far above rounding, TF32 included, and far below leaving out a layer.
"""


def pullback(function: Function, point: Tensor) -> tuple[Tensor, Callable[..., Tensor]]:
    """Return ``function(point)`` and u -> J^T u, whose graph is kept.

    By plain autograd, as torch.func takes neither custom functions of the older
    style nor checkpointing.
    """
    with torch.enable_grad():
        leaf = point.detach().requires_grad_()
        value = function(leaf)
    return value.detach(), _backward(value, leaf)


def _backward(value: Tensor, leaf: Tensor) -> Callable[..., Tensor]:
    """Return u -> J^T u through the graph from a leaf to a value, which is kept."""

    def transpose(u: Tensor) -> Tensor:
        if not value.requires_grad:
            return torch.zeros_like(leaf)
        (result,) = torch.autograd.grad(
            value, leaf, u, retain_graph=True, materialize_grads=True
        )
        return result

    return transpose


def linearised(
    function: Function, point: Tensor
) -> tuple[Tensor, Callable[..., Tensor], Callable[..., Tensor]]:
    """Return ``function(point)``, v -> J v and u -> J^T u, whose graphs are kept.

    J^T u is linear in u, and its transpose is J: backward passes through the graph of
    one of them give the other, without another pass of the function itself.
    """
    with torch.enable_grad():
        leaf = point.detach().requires_grad_()
        value = function(leaf)
        u = torch.zeros_like(value, requires_grad=True)
        along = torch.zeros_like(leaf)
        if value.requires_grad:
            (along,) = torch.autograd.grad(
                value, leaf, u, create_graph=True, materialize_grads=True
            )

    return value.detach(), _backward(along, u), _backward(value, leaf)


@contextmanager
def measured_graphs(known: Tensor) -> Iterator[Callable[[], int]]:
    """Count the bytes that graphs made within the block hold for backward passes.

    Yields a function that tells how many so far, each storage once, and that of
    `known` not at all.
    """
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() != known.untyped_storage().data_ptr():
            sizes[storage.data_ptr()] = storage.nbytes()
        # A tensor that keeps its history would keep the graph that saves it.
        return tensor.detach()

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        yield lambda: sum(sizes.values())


@cache
def _load_formulas() -> None:
    """Have torch compile its formulas for forward mode, which it does at first use.

    It warns of deprecated functions of its own as it does so.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with forward_ad.dual_level():
            forward_ad.make_dual(torch.zeros(1), torch.zeros(1))


@torch.no_grad()
def _forward_mode(
    function: Function, point: Tensor, direction: Tensor
) -> tuple[Tensor, Tensor]:
    _load_formulas()
    with forward_ad.dual_level():
        result = function(forward_ad.make_dual(point, direction))
        value, tangent = forward_ad.unpack_dual(result)
    return value, torch.zeros_like(value) if tangent is None else tangent


def _reverse_over_reverse(
    function: Function, point: Tensor, direction: Tensor
) -> tuple[Tensor, Tensor]:
    """J^T u is linear in u, and its transpose is J."""
    value, along = torch.autograd.functional.jvp(function, point, direction)
    return value, along


@torch.no_grad()
def _finite_differences(
    function: Function, point: Tensor, direction: Tensor
) -> tuple[Tensor, Tensor]:
    """Central differences, good to about 3 digits in float32 and 6 in float64.

    With a relative change t of the values, rounding costs eps / t, and the kinks of
    ReLU and max-pooling cost t, unlike the t^2 of smooth functions: t = sqrt(eps)
    balances the two. The step is sought that changes the values by so much, among
    those that change the parameters by no more than t and not so little that they
    are rounded themselves.
    """
    value = function(point)
    if not direction.any():
        return value, torch.zeros_like(value)
    change = torch.finfo(point.dtype).eps ** 0.5
    largest = step = change * (float(point.norm()) or 1.0) / float(direction.norm())
    for _ in range(4):
        used = step
        up = function(point + used * direction)
        down = function(point - used * direction)
        found = float((up - down).norm() / (up + down).norm())
        better = min(used * change / found, largest) if found > 0 else largest
        better = max(better, change**0.5 * largest)
        if used / 2 <= better <= 2 * used:
            break
        step = better
    return value, (up - down) / (2 * used)


METHODS: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "forward mode": _forward_mode,
    "reverse over reverse": _reverse_over_reverse,
    "finite differences": _finite_differences,
}
"""(function, point, v) -> value, J v; the best way first, the last works for any."""


def find_method(function: Function, point: Tensor) -> str:
    """Return the first of `METHODS` that works and agrees with the gradients.

    The function takes a tensor of the shape of the point, (n_parameters,). Raises a
    ValueError if no method works, and a RuntimeError if memory runs out.
    """
    agrees = _adjoint_test(function, point)
    failures = []
    for name, method in METHODS.items():
        try:
            agrees(method)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            failures.append(f"{name}: {error}")
            continue
        if name == "finite differences":
            warnings.warn(
                "the net is differentiated by finite differences, good to about "
                "3 digits in float32, as the exact ways failed "
                f"({'; '.join(failures)}). Give its custom autograd functions a "
                "`jvp`, or a backward pass that can be differentiated.",
                stacklevel=3,
            )
        return name
    raise ValueError(
        "the net cannot be differentiated along a direction "
        f"({'; '.join(failures)}). Make sure that it is deterministic in "
        "evaluation mode, that outputs and gradients are finite, and that the "
        "backward pass of custom functions is the derivative of the forward pass."
    )


def _adjoint_test(function: Function, point: Tensor) -> Callable[[Function], None]:
    """Return a test that raises unless <u, J v> = <J^T u, v>.

    J^T u is what training goes by. Forward mode differs from it where a layer
    computes under ``no_grad``, which only gradients obey. u and v are random, but v
    is a gradient for finite differences, which are poor along other directions,
    where next to nothing happens between the kinks.
    """
    value, transpose = pullback(function, point)
    # Differences below this, per length of v, are rounding error, for instance behind
    # a saturated softmax.
    eps = torch.finfo(point.dtype).eps
    negligible = float(eps**0.5 * value.norm() / (1 + point.norm()))
    rng = torch.Generator().manual_seed(0)
    us = torch.randn(3, *value.shape, generator=rng).to(value)
    random = torch.randn(point.shape, generator=rng).to(point)

    def test(method: Function) -> None:
        v = transpose(us.sum(0)) if method is _finite_differences else random
        products = (us * method(function, point, v)[1]).flatten(1).sum(1)
        expected = torch.stack([transpose(u) @ v for u in us])
        difference = float((products - expected).norm())
        allowed = TOLERANCE * float(expected.norm()) + negligible * float(v.norm())
        if not difference <= allowed:
            raise RuntimeError(
                f"contradicts the gradients, by {difference:.2g} where "
                f"{allowed:.2g} would pass"
            )

    return test


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether an error says that memory ran out."""
    # On a CPU and on MPS torch has no class of its own for it.
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in str(error) for words in ("out of memory", "can't allocate memory")
    )
