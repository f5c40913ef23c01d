"""A private copy of a module, called with weights from elsewhere."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from sk_datadrop._casting import LOW_PRECISION


def stateless_copy(
    module: torch.nn.Module, state_dict: dict[str, Tensor] | None
) -> torch.nn.Module:
    """Return a copy in evaluation mode whose forward pass changes nothing.

    A state dict gives it weights and buffers other than the module's own.
    """
    module = copy.deepcopy(module)
    if state_dict is not None:
        if isinstance(state_dict, Mapping):
            # Of a compiled module, of which this is the original.
            names = {name: name.removeprefix("_orig_mod.") for name in state_dict}
            state_dict = {names[name]: state_dict[name] for name in names}
        module.load_state_dict(state_dict)
    _freeze_embedding_side_effects(module)
    _keep_norms_in_full_precision(module)
    if any(str(p.dtype) in _LOW for p in module.parameters()):
        _keep_in_full_precision(module.float())
    return module.eval()


_LOW = {f"torch.{name}" for name in LOW_PRECISION}


def _keep_in_full_precision(module: torch.nn.Module) -> None:
    """Keep casts in the forward pass from lowering the precision again.

    In bfloat16 no system of equations can be solved.
    """
    module.forward = _InFullPrecision(module.forward)


class _InFullPrecision:
    def __init__(self, forward: Callable[..., Any]) -> None:
        self.forward = forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        kwargs = _widened(kwargs)
        with _NoLowPrecision():
            return self.forward(*_widened(args), **kwargs)


class _NoLowPrecision(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func in (Tensor.bfloat16, Tensor.half):
            return args[0].float()
        return func(*_widened(args), **_widened(kwargs or {}))


def _widened(values: Any) -> Any:
    """Return values with float32 for low precision, tensors and dtypes alike."""
    if isinstance(values, dict):
        return {key: _widened(value) for key, value in values.items()}
    if type(values) in (list, tuple):
        return type(values)(map(_widened, values))
    if isinstance(values, torch.dtype):
        return torch.float32 if str(values) in _LOW else values
    is_low = isinstance(values, Tensor) and str(values.dtype) in _LOW
    return values.to(torch.float32) if is_low else values


class WithWeights:
    """The module, called with other weights.

    Everything else, such as ``parameters()``, is the module's own: a penalty on the
    weights in ``get_loss`` adds a constant without gradient to each training loss.
    """

    def __init__(self, module: torch.nn.Module, parameters: dict[str, Tensor]) -> None:
        self._called = module
        self._parameters = parameters

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return functional_call(
            self._called, self._parameters, args, kwargs, tie_weights=False
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._called, name)


@torch.no_grad()
def _freeze_embedding_side_effects(module: torch.nn.Module) -> None:
    """Keep embeddings from writing to theta and from scaling its gradient by batch."""
    for layer in module.modules():
        if not isinstance(layer, torch.nn.Embedding | torch.nn.EmbeddingBag):
            continue
        layer.sparse = layer.scale_grad_by_freq = False
        if layer.max_norm is not None:
            ids = torch.arange(len(layer.weight), device=layer.weight.device)
            torch.embedding_renorm_(layer.weight, ids, layer.max_norm, layer.norm_type)
            layer.max_norm = None


def _keep_norms_in_full_precision(module: torch.nn.Module) -> None:
    """Run batch norm in full precision under autocast, as torch runs other norms.

    In lower precision torch gives the derivative another dtype than the value, and
    the next layer refuses it.
    """
    for part in module.modules():
        if isinstance(part, torch.nn.modules.batchnorm._NormBase):
            part.register_forward_pre_hook(_in_full_precision)


def _in_full_precision(_: torch.nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    X, *others = args
    is_low = torch.is_autocast_enabled(X.device.type) and X.dtype.itemsize < 4
    return (X.float() if is_low else X, *others)


def names_by_place(
    module: torch.nn.Module, trainable: dict[str, Tensor]
) -> dict[str, str]:
    """Map each place of a trainable parameter to its name: tied ones have several.

    functional_call could tie them itself, but in torch 2.14 it forgets the tie once
    a layer that has two names has been called.
    """
    names = {id(p): k for k, p in module.named_parameters() if k in trainable}
    return {
        f"{path}.{attribute}" if path else attribute: names[id(p)]
        for path, layer in module.named_modules()
        for attribute, p in layer.named_parameters(
            recurse=False, remove_duplicate=False
        )
        if id(p) in names
    }


@contextmanager
def differentiable_kernels(is_recurrent: bool) -> Iterator[None]:
    """Keep torch from fused kernels that lack a derivative.

    Attention: the fast path of evaluation mode has no forward mode, and the fused
    kernels no second derivative. cuDNN's recurrent layers have no derivative at all
    in evaluation mode.
    """
    fast_path = torch.backends.mha.get_fastpath_enabled()
    cudnn = torch.backends.cudnn.enabled
    torch.backends.mha.set_fastpath_enabled(False)
    torch.backends.cudnn.enabled = cudnn and not is_recurrent
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        torch.backends.cudnn.enabled = cudnn
