"""The net of round 2 on disk: weights in safetensors, never its code."""

from collections.abc import Iterator
from numbers import Integral
from textwrap import shorten
from typing import Any

import torch
from sklearn.base import clone
from skorch import NeuralNet

from sk_datadrop._criteria import original
from sk_datadrop._ranks import device_of
from sk_datadrop._training import seeded

_READERS = ("net", "criterion_", "predict_nonlinearity")
"""Attributes of a net that read the outputs of the module."""


def full_name(kind: Any) -> str:
    """Return the name of a type or function as skops has it."""
    return f"{kind.__module__}.{kind.__name__}"


def describe(net: NeuralNet) -> dict[str, str]:
    """Return the types of a net and its parts, and how it reads outputs."""
    read_by = net.predict_nonlinearity
    return {
        "net": full_name(type(net)),
        **{name: full_name(type(module)) for name, module in _modules(net)},
        "predict_nonlinearity": "a function" if callable(read_by) else str(read_by),
    }


def learned(net: NeuralNet, given: NeuralNet) -> dict[str, Any]:
    """Return what a net has learned besides weights: classes, and sizes of the module.

    Callbacks set sizes when they see the samples; those of the net as given are not
    among them.
    """
    before = given.get_params()
    sizes = {
        name.removeprefix("module__"): int(value)
        for name, value in net.get_params().items()
        if name.startswith("module__") and isinstance(value, Integral)
        if before.get(name) != value
    }
    return {"sizes": sizes, "classes": getattr(net, "classes_inferred_", None)}


def dump_weights(net: NeuralNet) -> dict[str, bytes]:
    """Return the weights of each module, by its attribute, as safetensors."""
    import safetensors.torch

    weights = {}
    for name, module in _modules(net):
        state = {
            # Copies, since tied weights would be refused.
            key: value.detach().cpu().clone(memory_format=torch.contiguous_format)
            for key, value in module.state_dict().items()
        }
        weights[name] = safetensors.torch.save(state)
    return weights


def load_net(
    estimator: NeuralNet,
    weights: dict[str, dict[str, torch.Tensor]],
    names: dict[str, str],
    facts: dict[str, Any],
) -> NeuralNet:
    """Return a clone of a net with weights, names and facts of the one that was saved.

    Raises a ValueError if it is another net.
    """
    sizes = {f"module__{name}": int(size) for name, size in facts["sizes"].items()}
    net = clone(estimator).set_params(**sizes)
    with seeded(0, device_of(net)):
        net.initialize()
    given = describe(net)
    for part in sorted({*names, *given}):
        was, has = names.get(part, "nothing"), given.get(part, "nothing")
        # They read the outputs. A module may have another name: its weights tell.
        differs = _last(was) != _last(has)
        if differs and (part in _READERS or "nothing" in (was, has)):
            raise ValueError(
                f"the model was trained with {was} as {part}, and the net given to "
                f"load_model has {has}. Give it the net that was trained."
            )
    for part, module in _modules(net):
        _fill(module, weights.get(part, {}), f"{part}, which was {names[part]},")
    if facts["classes"] is not None:
        net.classes_inferred_ = facts["classes"]
    return net


def _fill(module: torch.nn.Module, state: dict[str, torch.Tensor], name: str) -> None:
    """Set the weights of a module; raise a ValueError if they are not for it."""
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"the weights of {name} do not fit the net given to load_model: "
            f"{shorten(str(error), 1000)} Give it the net that was trained, with the "
            "same sizes."
        ) from error
    for key, value in module.state_dict().items():
        if value.dtype != state[key].dtype:
            raise ValueError(
                f"the weights of {name} are in {state[key].dtype}, and {key} of the "
                f"net given to load_model is in {value.dtype}. Give it the net that "
                "was trained."
            )


def _last(name: str) -> str:
    """Return a name without that of its module, which may have moved."""
    return name.rpartition(".")[2]


def _modules(net: NeuralNet) -> Iterator[tuple[str, torch.nn.Module]]:
    """Yield the modules of an initialised net, criterion included, by attribute."""
    for name, value in vars(net).items():
        if name.endswith("_") and isinstance(value, torch.nn.Module):
            yield name, original(value)
