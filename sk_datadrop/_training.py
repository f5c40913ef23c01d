"""One training of the user's net: from scratch, seeded, left as found.

Round 1 also keeps the weights at the moment to score: the epoch of the lowest
held-out training loss, before the net memorises. Gradients of memorised samples
vanish, and wrong labels with them, so the end of training is too late.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from sklearn.base import clone
from skorch import NeuralNet
from skorch.callbacks import Callback
from skorch.exceptions import SkorchException
from skorch.helper import predefined_split
from torch.utils.data import Subset

from sk_datadrop._callbacks import OwnFolder
from sk_datadrop._derivatives import is_out_of_memory
from sk_datadrop._lazy import DatasetRows
from sk_datadrop._outputs import joined
from sk_datadrop._progress import SILENT, EpochSteps, Progress
from sk_datadrop._ranks import device_of, module_of, summed_over_processes
from sk_datadrop._samples import Samples, given_to

_ON_VALIDATION = (
    " This training has no validation samples, nor columns of the history about them: "
    "pass X_val and y_val, or have the callback ask whether they are there."
)


@dataclass(frozen=True)
class Checkpoint:
    """Weights of a net after an epoch (counted from 1); None: as the net has them."""

    epoch: int
    state_dict: dict[str, Any] | None


@dataclass(frozen=True)
class Recipe:
    """Everything that tells one training of a fit from another, but its samples.

    `name` is for messages, `seed` seeds torch, numpy and Python for the time of the
    training, and `fit_params` go to the ``fit`` of the net. Checkpoints go to a folder
    that ends with the training unless it `keeps_files`.
    """

    name: str
    seed: int
    fit_params: dict[str, Any] = field(default_factory=dict)
    verbose: int = 0
    keeps_files: bool = False


@dataclass(frozen=True)
class Training:
    """A training that was watched.

    The net is as it stands at the end. The checkpoints are by increasing epoch, the
    last one is that of the lowest held-out loss; there is one such loss per epoch.
    """

    net: NeuralNet
    checkpoints: list[Checkpoint]
    held_out_losses: tuple[float, ...] = ()


def train_watched(
    net: NeuralNet,
    samples: Samples,
    held_out: Samples,
    recipe: Recipe,
    *,
    n_checkpoints: int,
    ends_early: bool = False,
    progress: Progress = SILENT,
) -> Training:
    """Train a clone, watching `held_out`, and keep the checkpoints to score.

    The held-out samples give the training loss to watch, and serve the callbacks of
    the net, such as early stopping, as their validation samples. At most
    `n_checkpoints` epochs are kept, up to that of the lowest loss. If it `ends_early`,
    the training stops once that epoch has surely passed.
    """
    watcher = _HeldOutCheckpoints(n_checkpoints)
    trained = train(
        net,
        samples,
        recipe,
        validation=held_out,
        progress=progress,
        first=[watcher],
        last=[_EndOncePast(watcher)] if ends_early else [],
    )
    losses = tuple(watcher.held_out_losses_)
    return Training(trained, watcher.kept_, losses)


def train(
    net: NeuralNet,
    samples: Samples,
    recipe: Recipe,
    *,
    validation: Samples | Literal["own"] | None = None,
    iterator: Callable[[Any], Any] | None = None,
    progress: Progress = SILENT,
    first: Sequence[Callback] = (),
    last: Sequence[Callback] = (),
) -> NeuralNet:
    """Train a clone of the net on the given samples, from scratch.

    The trained net holds neither the samples nor the additional callbacks, which are
    called before and after its own. `validation` has the samples for the validation
    phase of each epoch; None skips the phase, and "own" lets the net's ``train_split``
    withhold some of the training samples. `iterator` makes another training iterator
    of the net's own. `progress` moves by the epoch. Raises a ValueError if net or
    criterion fail, or the training loss becomes NaN or infinite.
    """
    guard, folder, steps = _FiniteLoss(), OwnFolder(), EpochSteps(progress)
    first = [guard, steps, *([] if recipe.keeps_files else [folder]), *first]
    extra = [*first, *last]
    verbose = net.verbose
    net = clone(net).set_params(verbose=recipe.verbose)
    original = {"callbacks": net.callbacks, "verbose": verbose}
    _add_callbacks(net, first, last)
    if not net.train_split and "valid_acc" in dict(net.get_default_callbacks()):
        # Accuracy that nobody asked for, and that is not known of many targets.
        net.set_params(callbacks__valid_acc=None)
    if iterator is not None:
        original["iterator_train"] = net.iterator_train
        net.set_params(iterator_train=iterator(net.iterator_train))
    if validation != "own":
        original["train_split"] = net.train_split
        net.set_params(train_split=None)
        if validation is not None:
            with seeded(recipe.seed, device_of(net)), prefix_errors(recipe.name):
                held_out = net.get_dataset(*validation.arguments(net))
            net.set_params(train_split=predefined_split(held_out))
    elif isinstance(samples.X, DatasetRows) and samples.X.augmented is not None:
        original["train_split"] = net.train_split
        net.set_params(train_split=HeldOutAsTheyAre(net.train_split, samples.X))
    advice = "" if net.train_split else _ON_VALIDATION
    errors = prefix_errors(recipe.name, advice)
    with folder, steps, seeded(recipe.seed, device_of(net)), errors:
        net.fit(*samples.fit_arguments(net), **recipe.fit_params)
    if len(net.history) > guard.n_epochs_:
        # skorch takes Ctrl-C for the wish to end this training only.
        raise KeyboardInterrupt(f"{recipe.name}: interrupted")
    if not len(net.history):
        raise ValueError(
            f"{recipe.name}: the net trained for no epoch. Raise max_epochs."
        )
    vars(net).update(original)
    for name in ("get_default_callbacks", "callbacks__valid_acc"):
        vars(net).pop(name, None)
    net.callbacks_ = [(k, cb) for k, cb in net.callbacks_ if cb not in extra]
    return net


class HeldOutAsTheyAre:
    """A ``train_split`` whose validation samples are not augmented.

    The net's own may withhold samples of another data set, which stay as they are.
    """

    def __init__(self, split: Callable[..., Any], samples: DatasetRows) -> None:
        self.split = split
        self.samples = samples

    def __call__(self, dataset: Any, y: Any = None, **options: Any) -> tuple[Any, Any]:
        train, held_out = self.split(dataset, y, **options)
        if isinstance(held_out, Subset) and held_out.dataset is dataset:
            held_out = self.samples[np.asarray(held_out.indices)]
        return train, held_out


@contextmanager
def seeded(seed: int, device: Any) -> Iterator[None]:
    """Seed torch, numpy and Python within the block, and leave all as found."""
    # torch.manual_seed would seed those of all devices.
    generators = _generators(device)
    states = [generator.get_state() for generator in generators]
    numpy_state = np.random.get_state()  # noqa: NPY002
    python_state = random.getstate()
    try:
        for generator in generators:
            generator.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)


def _generators(device: Any) -> list[torch.Generator]:
    """Return torch's generators that a net draws from: the CPU's and its device's."""
    if device is None:
        # accelerate chooses: the current one of each process.
        device = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(device)
    generators = [torch.default_generator]
    if device.type in ("cuda", "xpu"):
        backend = getattr(torch, device.type)
        backend.init()
        number = backend.current_device() if device.index is None else device.index
        generators.append(backend.default_generators[number])
    elif device.type == "mps":
        generators.append(torch.mps._get_default_mps_generator())
    return generators


_USUAL = (RuntimeError, ValueError, IndexError)
_IN_CALLBACKS = (LookupError, TypeError, AttributeError, SkorchException)
"""Errors of a callback that misses something."""


@contextmanager
def prefix_errors(name: str, advice: str = "") -> Iterator[None]:
    """Say in which training, or argument, something failed; raise a ValueError.

    The advice is for what a callback, or other code of the net, raises. An OSError
    stays one, with a note.
    """
    try:
        yield
    except OSError as error:
        if error.errno is not None and name.startswith("round"):
            error.add_note(
                f"{name}: a file could not be read or written. With memory=, fit "
                "starts again after the splits that were finished."
            )
        raise
    except (*_USUAL, *_IN_CALLBACKS) as error:
        if is_out_of_memory(error) or str(error).startswith(name):
            raise
        what = "" if isinstance(error, ValueError) else "the net or its criterion: "
        if isinstance(error, _USUAL):
            advice = ""
        else:
            what = f"the net or a callback raised {type(error).__name__}: "
        if "more than 1 value per channel" in str(error):
            advice = (
                " Batch normalisation cannot train on one sample, such as a last one "
                "left over: set iterator_train__drop_last=True on the net, or another "
                "batch_size."
            )
        elif "expects each tensor to be equal size" in str(error):
            advice = (
                " The samples of X differ in shape: bring images to one size in the "
                "data set, such as by torchvision's Resize, and pad sequences in a "
                "collate_fn of the net (iterator_train__collate_fn, "
                "iterator_valid__collate_fn)."
            )
        raise ValueError(f"{name}: {what}{error}{advice}") from error


def check_predictions(net: NeuralNet, samples: Samples, name: str) -> None:
    """Raise a ValueError if a trained net predicts no numbers for some samples.

    The training loss does not tell: it is that before the last step, in training mode.

    """
    n_bad = n_samples = 0
    # A DataLoader draws a seed for its workers, needed or not, and a data set may draw.
    with seeded(0, device_of(net)):
        for outputs in net.forward_iter(given_to(net, samples.X)):
            # Minus infinity is the logit of a class that is ruled out.
            values, _ = joined(outputs)
            bad = values.isnan() | values.isposinf()
            n_bad += int(bad.reshape(len(bad), -1).any(1).sum())
            n_samples += len(bad)
    if n_bad:
        raise ValueError(
            f"{name}: the net predicts NaN or infinity for {n_bad} of the "
            f"{n_samples} samples it was trained on. Lower the learning rate, scale X "
            "and y, or see what the module does in evaluation mode."
        )


def _add_callbacks(
    net: NeuralNet, first: Sequence[Callback], last: Sequence[Callback]
) -> None:
    """Put callbacks around the net's own, one of which may stop the training."""
    before, after = ([(type(cb).__name__, cb) for cb in part] for part in (first, last))
    if net.callbacks == "disable":
        # Ours without the default ones, for this training only.
        vars(net).update(callbacks=[*before, *after], get_default_callbacks=list)
    else:
        net.set_params(callbacks=[*before, *(net.callbacks or []), *after])


def _epoch_loss(net: NeuralNet, phase: str) -> float:
    """Mean loss of the last epoch over its samples."""
    columns = (f"{phase}_loss", f"{phase}_batch_size")
    try:
        losses, sizes = map(
            np.array, zip(*net.history[-1, "batches", :, columns], strict=True)
        )
    except KeyError as error:
        raise ValueError(
            f"the net saw no batch in its {phase} phase: with drop_last=True, "
            f"batch_size={net.batch_size} is more than there are samples. "
            f"Lower batch_size, or leave iterator_{phase}__drop_last out."
        ) from error
    if phase == "valid" and not np.isnan(losses).all():
        # A batch in which all targets are to be ignored has no mean.
        losses, sizes = losses[~np.isnan(losses)], sizes[~np.isnan(losses)]
    sums = np.array([losses @ sizes, sizes.sum()])
    total, n_samples = summed_over_processes(sums, net)
    return float(total / n_samples)


class _FiniteLoss(Callback):
    """Stop a training whose loss is no longer finite."""

    def on_train_begin(self, net: NeuralNet, **kwargs: Any) -> None:
        self.n_epochs_ = 0

    def on_epoch_end(self, net: NeuralNet, **kwargs: Any) -> None:
        self.n_epochs_ = len(net.history)
        loss = _epoch_loss(net, "train")
        if not np.isfinite(loss):
            raise ValueError(
                f"the training loss became {loss} in epoch {len(net.history)}. Lower "
                "the learning rate, scale X, or check the criterion."
            )


class _HeldOutCheckpoints(Callback):
    """Keep the weights of the epoch of the lowest held-out training loss, and before.

    The epochs before it are spread evenly from the first one, as far as they are there.
    Memory is that of at most ``3 * n_checkpoints + 1`` copies for any number of epochs.
    """

    def __init__(self, n_checkpoints: int) -> None:
        self.n_checkpoints = n_checkpoints

    def on_train_begin(self, net: NeuralNet, **kwargs: Any) -> None:
        self.kept_: list[Checkpoint] = []
        self.past_: list[Checkpoint] = []
        self.spacing_ = 1
        self.lowest_ = np.inf
        self.held_out_losses_: list[float] = []

    def on_epoch_end(self, net: NeuralNet, **kwargs: Any) -> None:
        loss = _epoch_loss(net, "valid")
        # A loss of NaN is never the lowest.
        loss = np.inf if np.isnan(loss) else loss
        self.held_out_losses_.append(loss)
        epoch, is_best = len(net.history), loss < self.lowest_ or not self.kept_
        is_spaced = self.n_checkpoints > 1 and epoch % self.spacing_ == 0
        if not (is_best or is_spaced):
            return
        current = Checkpoint(epoch, _copy_of_state(module_of(net)))
        if is_best:
            self.lowest_ = loss
            self.kept_ = self._spread_up_to(current)
        if is_spaced:
            self.past_.append(current)
        if len(self.past_) > 2 * self.n_checkpoints:
            self.past_, self.spacing_ = self.past_[1::2], 2 * self.spacing_

    def _spread_up_to(self, best: Checkpoint) -> list[Checkpoint]:
        """Return the past epochs nearest to equal steps up to the best, and that."""
        shares = np.arange(1, self.n_checkpoints) / self.n_checkpoints
        nearest = {
            min(self.past_, key=lambda past: abs(past.epoch - epoch)).epoch
            for epoch in shares * best.epoch
            if self.past_
        }
        return [*(past for past in self.past_ if past.epoch in nearest), best]


class _EndOncePast(Callback):
    """End a training once the epoch of the lowest held-out loss has surely passed.

    That is, after twice as many epochs, if the net by then knows its own samples far
    better and the held-out loss is well above its lowest, twice in a row. It missed 3
    of 309 moments in trainings that were left to their end, and cut those of nets that
    memorise to a third.
    """

    def __init__(self, watcher: _HeldOutCheckpoints) -> None:
        self.watcher = watcher

    def on_epoch_end(self, net: NeuralNet, **kwargs: Any) -> None:
        losses = self.watcher.held_out_losses_
        lowest = min(losses)
        best_epoch = losses.index(lowest) + 1
        is_late = len(losses) >= max(2 * best_epoch, best_epoch + 3)
        # skorch's way to end a training.
        if (
            is_late
            and min(losses[-2:]) > 1.1 * lowest
            and _epoch_loss(net, "train") < 0.8 * losses[-1]
        ):
            raise KeyboardInterrupt


def _copy_of_state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.detach().clone() for k, v in module.state_dict().items()}
