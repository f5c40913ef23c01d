"""A fitted skorch net as pure functions of one flat parameter vector.

All scoring goes through it. It works on a private copy of the module in evaluation
mode, so the caller's net keeps its flags, buffers and gradients.
"""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain
from math import inf

import torch
from skorch import NeuralNetClassifier
from skorch.utils import to_tensor
from torch import Tensor
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from sk_datadrop._derivatives import METHODS, find_method, is_out_of_memory
from sk_datadrop._ranks import device_of, iterator_of_all, module_of

_FEW_ROWS = 16
"""Enough to tell how a net can be differentiated, and cheap."""

_RANDOM = 3e-4
"""Relative change of the outputs, passed twice, above rounding on any hardware."""

_COUPLED = 0.1
"""Relative change of a row's outputs, passed alone, above rounding and TF32."""

_IN_ROW_ORDER = {
    "sampler": None,
    "batch_sampler": None,
    "shuffle": False,
    "drop_last": False,
}
"""Options of a data loader that passes every row once, in order."""

_WEIGHTED_LOSSES = (torch.nn.modules.loss._WeightedLoss, torch.nn.BCEWithLogitsLoss)
"""Criteria of torch with weights of classes."""

_NEUTRAL = {"weight": None, "pos_weight": None, "label_smoothing": 0.0}
"""Their options that change how much a class, or the label of a row, counts."""


class FunctionalNet:
    """Outputs and per-row losses of a fitted net, for any parameters.

    Parameters
    ----------
    net : skorch.NeuralNet
        Initialized net. Its module and criterion are copied.
    state_dict : dict or None, default=None
        Weights and buffers to use instead of the net's own, such as those of
        an earlier epoch.

    Attributes
    ----------
    theta : Tensor of shape (n_parameters,)
        The trainable parameters, one after the other. Frozen parameters
        (``requires_grad=False``) are constants.
    derivative : str or None
        How `jvp` goes about it: a key of `METHODS`, or None before its first call.

    Raises
    ------
    ValueError
        If the criterion has no ``reduction``, and so no per-row losses, or if
        no parameter is trainable.
    """

    def __init__(self, net, state_dict: dict | None = None) -> None:
        module = copy.deepcopy(module_of(net))
        if state_dict is not None:
            module.load_state_dict(state_dict)
        _tame_embeddings(module)
        _tame_norms(module)
        self._module = module.eval()
        self._reduction, criterion = _per_row(net.criterion_)
        self._plain_criterion = _plain(criterion)
        # A shallow twin, so that net.get_loss sees the copies. copy.copy would
        # go through skorch's pickling.
        self._net = object.__new__(type(net))
        self._net.__dict__.update(net.__dict__, criterion_=criterion)
        self._training_net = net
        self._state_dict = state_dict
        for option, value in _IN_ROW_ORDER.items():
            if f"iterator_valid__{option}" in vars(net):
                self._net.__dict__[f"iterator_valid__{option}"] = value
        self._batch_size = vars(net).get("iterator_valid__batch_size", net.batch_size)
        trainable = {
            k: p.detach() for k, p in module.named_parameters() if p.requires_grad
        }
        if not trainable:
            raise ValueError(
                "the net has no trainable parameter (requires_grad is False on all "
                "of them): influence is undefined. Unfreeze at least one layer."
            )
        self._shapes = {k: p.shape for k, p in trainable.items()}
        self.theta = torch.cat([p.reshape(-1) for p in trainable.values()])
        self._places = _places(module, trainable)
        self.derivative: str | None = None
        self._is_recurrent = any(
            isinstance(m, torch.nn.RNNBase) for m in module.modules()
        )

    def __reduce__(self):
        # Made anew by the process it goes to, as hooks and placed weights do not go.
        return _rebuild, (self._training_net, self._state_dict, self.derivative)

    def rows_per_batch(self, batch_size: int | None) -> int:
        """Return the number of rows in a batch of `batches`; -1 for all."""
        return int(batch_size or self._batch_size)

    def batches(self, X, y, batch_size: int | None = None) -> Iterator[tuple]:
        """Yield (X, y) batches on the net's device, in row order.

        Parameters
        ----------
        X, y : array-like of shape (n_samples, ...)
            Rows as the net was fitted on.
        batch_size : int or None, default=None
            None takes the net's own batch size for validation.
        """
        net = self._net
        dataset = net.get_dataset(X, y)
        net.__dict__["iterator_valid__batch_size"] = self.rows_per_batch(batch_size)
        # A DataLoader draws a seed for its workers, needed or not.
        with torch.random.fork_rng(devices=[]):
            batches = iter(iterator_of_all(net, dataset))
        for number, batch in enumerate(batches):
            if number == 0 and "iterator_valid__collate_fn" in vars(net):
                _check_order(batch[1], y)
            yield self.to_device(batch)

    def dataset(self, X, y):
        """Rows as the net sees them, one by one."""
        return self._net.get_dataset(X, y)

    def to_device(self, batch) -> tuple:
        """Put a batch (X, y) on the net's device."""
        X, y = batch
        return (
            to_tensor(X, device=self.device),
            to_tensor(y, device=self.device),
        )

    @property
    def device(self):
        """The net's device, as skorch has it; None leaves tensors where they are."""
        return device_of(self._net)

    @property
    def skorch_net(self):
        """The net this was made of."""
        return self._training_net

    def raw_outputs(self, theta: Tensor, X: Tensor) -> Tensor:
        """Return the outputs of the module, as the criterion and the user see them."""
        return self._raw_outputs(self._unflatten(theta), X)

    def _raw_outputs(self, weights: dict[str, Tensor], X) -> Tensor:
        placed = {place: weights[name] for place, name in self._places.items()}
        # Through net.infer, which some nets override: skorch's binary classifier
        # drops an axis there.
        self._net.__dict__["module_"] = _Placed(self._module, placed)
        with _differentiable_kernels(self._is_recurrent):
            # A copy, as a module may work in place on its input, and batches are
            # passed more than once.
            out = self._net.infer(copy.deepcopy(X))
        if not isinstance(out, Tensor):
            raise ValueError(
                "the module must return one tensor for influence to be computed; "
                f"got {type(out).__name__}."
            )
        return out

    def outputs(self, theta: Tensor, X: Tensor) -> Tensor:
        """Return outputs in which the row loss is convex and not linear.

        The module's own, except under NLLLoss: the log-probabilities, read as
        logits. There the loss is the same number, but its Hessian is the
        Fisher information, diag(p) - p p^T, whereas in the probabilities it
        would only be that of the given label, and in the log-probabilities
        nothing at all.
        """
        return self._link(self.raw_outputs(theta, X))

    def losses_from_raw(self, raw: Tensor, y: Tensor) -> Tensor:
        """Training loss of each row, shape (n_rows,), from the module's outputs."""
        return self.losses(self._link(raw), y)

    def likelihoods_from_raw(self, raw: Tensor, y: Tensor) -> Tensor:
        """Losses without class weights and label smoothing, from the outputs.

        For cross-entropy minus the log-probability of the true class, whatever
        the training makes of it.
        """
        criterion = self._net.criterion_
        self._net.__dict__["criterion_"] = self._plain_criterion
        try:
            return self.losses_from_raw(raw, y)
        finally:
            self._net.__dict__["criterion_"] = criterion

    def losses(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Training loss of each row, shape (n_rows,), from `outputs`."""
        losses = self._net.get_loss(self._unlink(outputs), y, training=False)
        if losses.ndim == 0 or losses.shape[0] != outputs.shape[0]:
            raise ValueError(
                f"criterion {type(self._net.criterion_).__name__} gives losses of "
                f"shape {tuple(losses.shape)} for {outputs.shape[0]} rows with "
                "reduction='none'; it must give one loss per row (or per element). "
                "Use a criterion that honours reduction='none'."
            )
        losses = losses.reshape(outputs.shape[0], -1)
        if losses.shape[1] > outputs[0].numel():
            raise ValueError(
                f"the criterion gives {losses.shape[1]} losses per row for outputs of "
                f"shape {tuple(outputs.shape)} and targets of shape {tuple(y.shape)}: "
                "rows are mixed up by broadcasting. Give y the shape of the outputs."
            )
        return losses.sum(1) if self._reduction == "sum" else losses.mean(1)

    def row_losses(self, theta: Tensor, X: Tensor, y: Tensor) -> Tensor:
        """Training loss of each row, shape (n_rows,), at parameters `theta`."""
        return self.losses(self.outputs(theta, X), y)

    def training_loss(self, theta: Tensor, X, y, row_weights: Tensor) -> Tensor:
        """Loss of a training step, with a weight on every row; a number.

        The module runs in training mode, and its buffers change as they do in
        training: predict with another instance. With weights of one it is the
        loss that skorch minimises; a weight counts in the sum of the losses, and
        leaves their number alone.
        """
        self._module.train()
        try:
            raw = self.raw_outputs(theta, X)
        finally:
            self._module.eval()
        rows = self.losses_from_raw(raw, y)
        loss = self._training_net.get_loss(raw, y, X=X, training=True)
        # What one unit of row loss counts for: 1 / n, 1 for reduction "sum", and one
        # over the sum of the weights of the rows for criteria with class weights.
        total = rows.detach().sum()
        unit = loss.detach() / total if total else 1 / len(rows)
        return loss + unit * ((row_weights - 1) * rows).sum()

    def jvp(
        self, X: Tensor, direction: Tensor, autocast: torch.dtype | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return outputs at `theta`, and their derivative along a direction.

        The first call settles the method for all: the first of `METHODS` that
        neither fails on these rows nor contradicts the gradients.

        Parameters
        ----------
        X : Tensor of shape (n_rows, ...)
        direction : Tensor of shape (n_parameters,)
        autocast : torch.dtype or None, default=None
            Precision of the net's own computation where torch.autocast sees fit.
            Finite differences, which would drown in it, keep the full one.

        Returns
        -------
        outputs, derivative : Tensor, both of the shape of `outputs`

        Raises
        ------
        ValueError
            If no method agrees with the gradients.
        RuntimeError
            If the method of the first call fails on these rows, rather than go on
            with another one.
        """

        def outputs(theta, X=X):
            return self.outputs(theta, X)

        if self.derivative is None:
            few = X[:_FEW_ROWS] if isinstance(X, Tensor) else X
            self.derivative = find_method(partial(outputs, X=few), self.theta)
        exact = self.derivative != "finite differences"
        with torch.autocast(
            self.theta.device.type,
            dtype=autocast,
            enabled=autocast is not None and exact,
        ):
            value, along = METHODS[self.derivative](outputs, self.theta, direction)
        return value.to(self.theta.dtype), along.to(self.theta.dtype)

    @torch.no_grad()
    def check_rows(self, X, y) -> None:
        """Check that outputs are numbers, the same every time, and each by itself.

        Parameters
        ----------
        X, y : array-like of shape (n_samples, ...)
            Rows; the first few are run.

        Raises
        ------
        ValueError
            If the net fails in evaluation mode, on several rows or on one, an output
            is NaN, or the same rows come out otherwise the second time.

        Warns
        -----
        UserWarning
            If the outputs of a row depend on the rows beside it.
        """
        few, _ = next(self.batches(X[:_FEW_ROWS], y[:_FEW_ROWS], _FEW_ROWS))
        outputs = self._tried(few, "the rows")
        check_not_nan(outputs, "the first rows")
        change = _relative_change(outputs, self._tried(few, "the rows"))
        if change > _RANDOM:
            raise ValueError(
                "the net is not deterministic in evaluation mode: the same rows, "
                f"passed twice, come out {change:.2g} apart. Have random layers look "
                "at self.training, as nn.Dropout does, and let no forward pass change "
                "parameters or buffers."
            )
        if not isinstance(few, Tensor):
            return
        alone = outputs.clone()
        alone[:1] = self._tried(few[:1], "a single row")
        # Relative to all rows: one alone may come out as next to nothing.
        change = _relative_change(outputs, alone) * len(outputs) ** 0.5
        if change > _COUPLED:
            warnings.warn(
                "in evaluation mode the outputs of a row depend on the rows beside it "
                "in the batch: so do the influences, and the predictions. Look for "
                "batch normalisation without running statistics.",
                stacklevel=3,
            )

    @torch.enable_grad()
    def check_loss(self, X, y) -> None:
        """Check that the losses of the first rows follow from the parameters.

        Parameters
        ----------
        X, y : array-like of shape (n_samples, ...)
            Rows; the first two are run.

        Raises
        ------
        ValueError
            If net or criterion fail, outputs are not one per row, or no gradient
            reaches the parameters.
        """
        theta = self.theta.clone().requires_grad_()
        for Xb, yb in self.batches(X[:2], y[:2]):
            raw = self._tried(Xb, "the rows", theta)
            if not raw.ndim or len(raw) != len(yb):
                raise ValueError(
                    f"the net gives outputs of shape {tuple(raw.shape)} for "
                    f"{len(yb)} rows. Have it return one entry per row."
                )
            if not self._tried_losses(raw, yb).requires_grad:
                raise ValueError(
                    "no gradient of the training loss reaches a trainable parameter: "
                    "influence is undefined. Look for a `detach`, a `no_grad`, or a "
                    "rounding in module and criterion."
                )
            self._try_likelihoods(raw, yb)

    def _try_likelihoods(self, raw: Tensor, y: Tensor) -> None:
        try:
            self.likelihoods_from_raw(raw, y)
        except (RuntimeError, LookupError, TypeError) as error:
            raise ValueError(
                f"criterion {type(self._net.criterion_).__name__} failed without class "
                f"weights, as the held-out rows are measured: {error}. Have it work "
                "with weight=None, or give what it needs another name."
            ) from error

    def _tried_losses(self, raw: Tensor, y: Tensor) -> Tensor:
        try:
            return self.losses_from_raw(raw, y)
        except (RuntimeError, LookupError, TypeError) as error:
            raise ValueError(
                f"criterion {type(self._net.criterion_).__name__} failed on outputs of "
                f"shape {tuple(raw.shape)}, {raw.dtype}, and targets of shape "
                f"{tuple(y.shape)}, {y.dtype}: {error}. Check that y suits the "
                "criterion: its shape, its dtype, and classes counted from 0."
            ) from error

    def _tried(self, X, what: str, theta: Tensor | None = None) -> Tensor:
        try:
            return self.raw_outputs(self.theta if theta is None else theta, X)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise ValueError(
                f"the net failed on {what} in evaluation mode, with "
                f"{type(error).__name__}: {error}. Check shape and dtype of X, and "
                "that no layer needs a whole batch or changes parameters in place."
            ) from error

    def check_reached(self, X, y, batch_size: int | None = None) -> None:
        """Warn of trainable parameters that no output depends on.

        Training by gradients leaves them as they are, and they have no part in the
        influence. Only a missing dependency is seen: not a derivative of zero, nor
        a detached use beside another.

        Parameters
        ----------
        X, y : array-like of shape (n_samples, ...)
            Rows. As a rule the first few are enough and the only ones run.
        batch_size : int or None, default=None
            Rows per pass.

        Raises
        ------
        ValueError
            If the outputs depend on no trainable parameter at all.
        """
        names = list(self._shapes)
        few = self.batches(X[:_FEW_ROWS], y[:_FEW_ROWS])
        for Xb, _ in chain(few, self.batches(X, y, batch_size)):
            names = self._unreached_of(names, Xb)
            if not names:
                return
        if len(names) == len(self._shapes):
            raise ValueError(
                "the outputs of the net depend on none of its trainable parameters: "
                "influence is undefined. Look for a `detach` or `no_grad`."
            )
        warnings.warn(
            f"no output depends on the parameters {', '.join(names)}: they have no "
            "part in the influence. Look for a `detach` or `no_grad`, or set "
            "requires_grad=False.",
            stacklevel=3,
        )

    @torch.enable_grad()
    def _unreached_of(self, names: list[str], X) -> list[str]:
        weights = {
            k: p.detach().requires_grad_()
            for k, p in self._unflatten(self.theta).items()
        }
        out = self._raw_outputs(weights, X)
        if not out.requires_grad:
            return names
        leaves = [weights[k] for k in names]
        gradients = torch.autograd.grad(out.sum(), leaves, allow_unused=True)
        return [k for k, g in zip(names, gradients, strict=True) if g is None]

    def _link(self, raw: Tensor) -> Tensor:
        if not self._is_nll:
            return raw
        if self._takes_probabilities:
            return torch.log(raw + torch.finfo(raw.dtype).eps)
        return raw

    def _unlink(self, outputs: Tensor) -> Tensor:
        if not self._is_nll:
            return outputs
        if self._takes_probabilities:
            return torch.softmax(outputs, dim=1)
        return torch.log_softmax(outputs, dim=1)

    @property
    def _is_nll(self) -> bool:
        return isinstance(self._net.criterion_, torch.nn.NLLLoss)

    @property
    def _takes_probabilities(self) -> bool:
        # skorch's classifier takes the logarithm in get_loss, its base class not.
        return isinstance(self._net, NeuralNetClassifier)

    def mean_per_tensor(self, v: Tensor) -> Tensor:
        """Put in place of each entry of v the mean over its parameter tensor.

        Parameters
        ----------
        v : Tensor of shape (n_parameters,)

        Returns
        -------
        Tensor of shape (n_parameters,)
        """
        return torch.cat([p.mean().expand(len(p)) for p in self._split(v)])

    def _split(self, theta: Tensor) -> tuple[Tensor, ...]:
        return theta.split([shape.numel() for shape in self._shapes.values()])

    def _unflatten(self, theta: Tensor) -> dict[str, Tensor]:
        return {
            k: p.view(shape)
            for (k, shape), p in zip(
                self._shapes.items(), self._split(theta), strict=True
            )
        }


def _rebuild(net, state_dict, derivative) -> FunctionalNet:
    functional = FunctionalNet(net, state_dict)
    functional.derivative = derivative
    return functional


def check_not_nan(outputs: Tensor, what: str) -> None:
    """Raise a ValueError if an output is NaN."""
    n_bad = int(outputs.isnan().flatten(1).any(1).sum()) if outputs.ndim > 1 else 0
    n_bad = n_bad or int(outputs.isnan().sum())
    if n_bad:
        raise ValueError(
            f"in evaluation mode the net gives NaN for {n_bad} of {len(outputs)} rows "
            f"among {what}. Scale X, lower the learning rate, or look for a division "
            "or a logarithm in the module."
        )


def _relative_change(outputs: Tensor, others: Tensor) -> float:
    """Norm of the difference, relative to that of the outputs; inf for other shapes."""
    if outputs.shape != others.shape:
        return inf
    # Masked logits are minus infinity, and stay so.
    difference = torch.where(outputs == others, 0, outputs - others)
    size = torch.where(outputs.isinf(), 0, outputs).double().norm()
    return float(difference.double().norm() / size) if difference.any() else 0.0


class _Placed:
    """A module called with other parameters, and in all else the module itself.

    For nets that look at it in their ``get_loss``: a penalty on the weights is a
    constant there, part of no row.
    """

    def __init__(self, module: torch.nn.Module, parameters: dict[str, Tensor]) -> None:
        self._called = module
        self._parameters = parameters

    def __call__(self, *args, **kwargs):
        return functional_call(
            self._called, self._parameters, args, kwargs, tie_weights=False
        )

    def __getattr__(self, name: str):
        return getattr(self._called, name)


@torch.no_grad()
def _tame_embeddings(module: torch.nn.Module) -> None:
    """Keep embeddings from writing to theta and from scaling its gradient by batch."""
    for layer in module.modules():
        if not isinstance(layer, torch.nn.Embedding | torch.nn.EmbeddingBag):
            continue
        layer.sparse = layer.scale_grad_by_freq = False
        if layer.max_norm is not None:
            rows = torch.arange(len(layer.weight), device=layer.weight.device)
            torch.embedding_renorm_(layer.weight, rows, layer.max_norm, layer.norm_type)
            layer.max_norm = None


def _tame_norms(module) -> None:
    """Run batch norm in full precision under autocast, as it does other norms.

    In a lower one torch gives the derivative another dtype than the value, and the
    next layer refuses.
    """
    for part in module.modules():
        if isinstance(part, torch.nn.modules.batchnorm._NormBase):
            part.register_forward_pre_hook(_in_full_precision)


def _in_full_precision(_, args):
    X, *others = args
    is_low = torch.is_autocast_enabled(X.device.type) and X.dtype.itemsize < 4
    return (X.float() if is_low else X, *others)


def _places(module: torch.nn.Module, trainable: dict[str, Tensor]) -> dict[str, str]:
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


def _check_order(batch_y, y) -> None:
    """Raise a ValueError if a first batch does not hold the first rows, in order."""
    expected = torch.as_tensor(y[: len(batch_y)])
    found = torch.as_tensor(batch_y)
    if found.shape != expected.shape or not torch.equal(found.to(expected), expected):
        raise ValueError(
            "iterator_valid__collate_fn changes the rows, their order or their "
            "targets, so scores could not be told apart. Leave it out of the net for "
            "validation, or keep the order."
        )


def _per_row(criterion) -> tuple[str, torch.nn.Module]:
    """Reduction of a criterion, and a copy of it that does not reduce."""
    reduction = getattr(criterion, "reduction", None)
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(
            f"criterion {type(criterion).__name__} has no per-row losses: its "
            f"reduction is {reduction!r}. Use a torch criterion such as "
            "CrossEntropyLoss or MSELoss, or give yours a `reduction` attribute that "
            "accepts 'none'."
        )
    criterion = copy.deepcopy(criterion)
    criterion.reduction = "none"
    return reduction, criterion


def _plain(criterion) -> torch.nn.Module:
    """Copy of a criterion without class weights and label smoothing.

    Those of torch only: what a criterion of the user calls so may be anything.
    """
    criterion = copy.deepcopy(criterion)
    if isinstance(criterion, _WEIGHTED_LOSSES):
        for name, neutral in _NEUTRAL.items():
            if hasattr(criterion, name):
                setattr(criterion, name, neutral)
    return criterion


@contextmanager
def _differentiable_kernels(is_recurrent: bool) -> Iterator[None]:
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
