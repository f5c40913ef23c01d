"""Give the callbacks of a user's net the files, validation samples and steps they need.

A fit trains several nets, on parts of the samples and maybe side by side, and round 2
on all kept samples. Callbacks are written for one training by skorch, whose
``train_split`` withholds a fifth.
"""

import dis
import os
import pickle
import re
import warnings
from collections.abc import Iterator
from functools import partial
from math import ceil
from shutil import rmtree
from tempfile import mkdtemp
from types import CodeType, FunctionType, MethodType
from typing import Any

from sklearn.base import clone
from skorch import NeuralNet
from skorch.callbacks import (
    BatchScoring,
    Callback,
    Checkpoint,
    EarlyStopping,
    EpochScoring,
    LoadInitState,
    LRScheduler,
    PassthroughScoring,
    TrainEndCheckpoint,
    WandbLogger,
)
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader

_SCORING = (EpochScoring, BatchScoring, PassthroughScoring)
"""Callbacks that skip a validation phase that does not take place."""

_OF_VALIDATION = re.compile(r"(dataset_)?valid(_\w*)?")
"""Columns of the history, and the argument, that only a validation phase has."""

_ASKING = {"get", "record", "record_batch"}
"""Methods that do without a column, or make it."""

_CALLS = {"PUSH_NULL", "PRECALL", "CACHE"}

_NAMING = {"CALL_KW", "BUILD_CONST_KEY_MAP"}
"""Instructions that take the names of what they pass on."""


class OwnFolder(Callback):
    """Have checkpoints of one training written to, and read from, a folder of its own.

    Trainings that take place side by side would otherwise load each other's weights.
    A `LoadInitState` is only changed where it reads what the net itself writes.
    """

    def __init__(self) -> None:
        self.folder_ = ""
        self.original_: list[tuple[Any, dict[str, Any]]] = []

    def __enter__(self) -> None:
        """Only remember to clean up: most nets write nothing."""

    def __exit__(self, *error: object) -> None:
        """Give all checkpoints the settings that they had, and remove the folder."""
        for checkpoint, settings in self.original_:
            vars(checkpoint).update(settings)
        if self.folder_:
            rmtree(self.folder_, ignore_errors=True)

    def on_train_begin(self, net: NeuralNet, **kwargs: Any) -> None:
        callbacks = [callback for _, callback in net.callbacks_]
        writers = [cb for cb in callbacks if not isinstance(cb, LoadInitState)]
        found = [c for cb in writers for c in (cb, *vars(cb).values()) if _writes(c)]
        places = {dirname: n for n, dirname in enumerate(c.dirname for c in found)}
        for reader in (cb for cb in callbacks if isinstance(cb, LoadInitState)):
            parts = (reader.checkpoint, *vars(reader.checkpoint).values())
            found += [c for c in parts if _writes(c) and c.dirname in places]
        for checkpoint in found:
            self._move(checkpoint, str(places[checkpoint.dirname]))

    def _move(self, checkpoint: Any, place: str) -> None:
        # Made by the process that trains, and named unlike all others.
        self.folder_ = self.folder_ or mkdtemp(prefix="sk_datadrop-")
        folder = os.path.join(self.folder_, place)
        os.makedirs(folder, exist_ok=True)
        names = [n for n in vars(checkpoint) if n[:2] == "f_" or n == "fn_prefix"]
        settings = {name: getattr(checkpoint, name) for name in [*names, "dirname"]}
        self.original_.append((checkpoint, settings))
        for name in names:
            # Paths would lead out of the folder, or into one that it does not have.
            if isinstance(settings[name], str):
                setattr(checkpoint, name, re.sub(r"[/\\]", "_", settings[name]))
        checkpoint.dirname = folder


def _writes(thing: Any) -> bool:
    return isinstance(thing, Checkpoint | TrainEndCheckpoint)


def cloned(net: NeuralNet) -> NeuralNet:
    """Return a clone; raise a ValueError that names a callback without a copy."""
    try:
        return clone(net)
    except (TypeError, pickle.PicklingError) as error:
        named = net.callbacks if isinstance(net.callbacks, list | tuple) else []
        callbacks = [cb[1] if isinstance(cb, tuple) else cb for cb in named]
        stays = [type(cb).__name__ for cb in callbacks if not _has_copy(cb)]
        where = f": callback {stays[0]}" if stays else ""
        raise ValueError(
            f"the net has no copy{where} ({error}), and every training needs one. Open "
            "files, writers and locks are not copied: have a callback make them in its "
            "on_train_begin."
        ) from error


def _has_copy(thing: Any) -> bool:
    try:
        clone(thing, safe=False)
    except (TypeError, pickle.PicklingError):
        return False
    return True


def needs_validation(net: NeuralNet) -> list[str]:
    """Name what fails without a validation phase: callbacks, and methods of the net.

    Callbacks with a `monitor` that is no training quantity; and those whose own code,
    or a function among their parameters, reads a column of the history that starts with
    "valid", or ``dataset_valid``, without asking whether there is one.
    """
    found = [
        type(callback).__name__
        for _, callback in net.callbacks_
        if _watches(callback) or any(map(_reads_validation, _codes(callback)))
    ]
    own = [
        function.__code__
        for name, function in _own_functions(type(net))
        if name.startswith("on_")
    ]
    return found + [type(net).__name__] * any(map(_reads_validation, own))


def check_callbacks(
    net: NeuralNet, n_samples: int, n_workers: int, *, withholds: bool
) -> None:
    """Raise a ValueError if a callback would fail, or mix up trainings.

    `net` is initialized, and `n_samples` the most that a training has. Warns of a
    callback that starts from weights in files. Schedules are not looked at where round
    2 `withholds` samples, or a training may stop early.
    """
    for _, callback in net.callbacks_:
        if isinstance(callback, LoadInitState):
            warnings.warn(
                "callback LoadInitState starts a training from weights in files, if "
                "there are any, instead of from scratch: what an earlier training "
                "knew of samples is then in the scores, and in round 2. Leave it out, "
                "unless these samples were no part of that training.",
                UserWarning,
                stacklevel=5,
            )
        elif n_workers > 1 and _saves_and_loads(callback):
            raise ValueError(
                f"callback {type(callback).__name__} saves and loads files, and the "
                f"trainings of n_jobs={n_workers} would load each other's. Set "
                "n_jobs=None, keep what it saves in memory, or let skorch's "
                "Checkpoint(load_best=True) do it, which gets a folder for each "
                "training."
            )
    if not withholds and not any(map(_may_stop, net.callbacks_)):
        _check_schedules(net, n_samples)


def _watches(callback: Callback) -> bool:
    if isinstance(callback, WandbLogger):
        # It saves the weights of the lowest validation loss.
        return bool(callback.save_model)
    monitor = getattr(callback, "monitor", None)
    return isinstance(monitor, str) and not monitor.startswith("train")


def _codes(callback: Callback) -> list[CodeType]:
    """Return the code of a callback that is not skorch's, and of its parameters."""
    if isinstance(callback, _SCORING) and not getattr(callback, "on_train", False):
        functions: list[Any] = []
    else:
        functions = list(vars(callback).values())
    functions += [function for _, function in _own_functions(type(callback))]
    return [code for function in functions for code in _code_of(function, set())]


def _own_functions(kind: type) -> list[tuple[str, FunctionType]]:
    """Return the methods of a class and its bases, up to those of skorch."""
    return [
        (name, value)
        for base in kind.__mro__
        if not _is_of_library(base)
        for name, value in vars(base).items()
        if isinstance(value, FunctionType)
    ]


def _is_of_library(thing: Any) -> bool:
    top = str(getattr(thing, "__module__", "")).partition(".")[0]
    return top in ("skorch", "torch", "numpy", "sklearn", "builtins")


def _code_of(function: Any, seen: set[int]) -> Iterator[CodeType]:
    """Yield the code of a function, and of those of its module that it mentions."""
    if isinstance(function, partial):
        function = function.func
    if isinstance(function, MethodType):
        function = function.__func__
    if not isinstance(function, FunctionType) or _is_of_library(function):
        return
    if id(function) in seen:
        return
    seen.add(id(function))
    yield from _nested(function.__code__)
    for name in function.__code__.co_names:
        other = function.__globals__.get(name)
        if getattr(other, "__module__", None) == function.__module__:
            yield from _code_of(other, seen)


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant)


def _reads_validation(code: CodeType) -> bool:
    """Tell whether code reads something of a validation phase without asking first."""
    steps = [step for step in dis.get_instructions(code) if step.opname not in _CALLS]
    passes_on = "super" in code.co_names
    reads = [
        number
        for number, step in enumerate(steps)
        if (_is_column(step) or _is_argument(step))
        and not (passes_on and "dataset_valid" in _values(step))
    ]
    # An error that is caught, too, is a question.
    if "KeyError" in code.co_names or any(_asks(steps, number) for number in reads):
        return False
    return not all(_is_harmless(steps, number) for number in reads)


def _values(step: dis.Instruction) -> tuple[Any, ...]:
    return step.argval if isinstance(step.argval, tuple) else (step.argval,)


def _is_column(step: dis.Instruction) -> bool:
    return step.opname.startswith("LOAD_CONST") and any(
        isinstance(v, str) and bool(_OF_VALIDATION.fullmatch(v)) for v in _values(step)
    )


def _is_argument(step: dis.Instruction) -> bool:
    is_load = step.opname.startswith(("LOAD_FAST", "LOAD_DEREF"))
    return is_load and "dataset_valid" in _values(step)


def _is_harmless(steps: list[dis.Instruction], number: int) -> bool:
    """Tell whether a name is only passed on, or given to a method that copes."""
    follows = steps[number + 1].opname
    return follows in _NAMING or (number > 0 and steps[number - 1].argval in _ASKING)


def _asks(steps: list[dis.Instruction], number: int) -> bool:
    """Tell whether what a step loads is looked for, or compared with nothing."""
    following = [step.opname for step in steps[number + 1 :]]
    if _is_argument(steps[number]):
        is_tested = "JUMP" in following[0] or following[0] == "TO_BOOL"
        return is_tested or following[1:2] == ["IS_OP"]
    if isinstance(steps[number].argval, tuple):
        return False
    on_stack = ("LOAD", "BINARY", "UNARY")
    rest = (name for name in following if not name.startswith(on_stack))
    return next(rest, "") == "CONTAINS_OP"


def _names_in(callback: Callback) -> set[str]:
    """Return the names that the code of a callback mentions."""
    return {name for code in _codes(callback) for name in code.co_names}


def _saves_and_loads(callback: Callback) -> bool:
    names = _names_in(callback)
    return not _writes(callback) and bool(
        names & {"save", "save_params", "save_file", "dump"}
        and names & {"load", "load_params", "load_file"}
    )


def _may_stop(named: tuple[str, Callback]) -> bool:
    callback = named[1]
    is_known = isinstance(callback, EarlyStopping)
    return is_known or "KeyboardInterrupt" in _names_in(callback)


def _check_schedules(net: NeuralNet, n_samples: int) -> None:
    """Raise a ValueError if a schedule of the learning rate ends before a training."""
    options = net.get_params_for("iterator_train")
    size = options.get("batch_size", net.batch_size)
    is_plain = isinstance(net.iterator_train, type) and issubclass(
        net.iterator_train, DataLoader
    )
    if not is_plain or not isinstance(size, int):
        return
    n_batches = 1 if size < 0 else n_samples / size
    per_epoch = int(n_batches) if options.get("drop_last") else ceil(n_batches)
    for name, callback in net.callbacks_:
        if not isinstance(callback, LRScheduler) or callback.policy in (
            ReduceLROnPlateau,
            "ReduceLROnPlateau",
        ):
            continue
        per_batch = callback.step_every == "batch"
        n_steps = net.max_epochs * (per_epoch if per_batch else 1)
        if (error := _failure(callback, n_steps, net.lr)) is not None:
            raise ValueError(
                f"callback {name} fails within the {n_steps} steps of a training on "
                f"all {n_samples} samples, as round 2 is ({per_epoch} batches in each "
                f"of {net.max_epochs} epochs): {str(error).rstrip('.')}. Set it for "
                f"{n_steps} steps; skorch's train_split, which withholds a fifth of "
                "the samples, takes no part."
            )


def _failure(schedule: LRScheduler, n_steps: int, lr: float) -> Exception | None:
    """Return how a schedule fails within some steps, but not at once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            schedule.simulate(0, lr)
        except Exception:
            # It needs the parameters of the net.
            return None
        try:
            schedule.simulate(n_steps, lr)
        except Exception as error:
            return error
    return None
