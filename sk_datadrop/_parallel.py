"""Calls side by side, through joblib, with the result of making them one by one.

Whoever sets a backend of joblib (loky, dask, ray) has the calls made there.
"""

import io
import pickle
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from itertools import chain
from operator import length_hint
from threading import Lock
from typing import Any

import torch
from cloudpickle import CloudPickler
from joblib import (
    Parallel,
    cpu_count,
    delayed,
    effective_n_jobs,
    parallel_config,
)
from joblib.parallel import (
    LokyBackend,
    MultiprocessingBackend,
    get_active_backend,
)
from sklearn.base import clone
from skorch import NeuralNet

from sk_datadrop._cache import register_in_main

MOST_LOSSES = 3
"""How often all workers that have the samples may stop."""
SECONDS_FOR_OTHERS = 180

_ONE_AT_A_TIME = Lock()


def n_processes(n_jobs: int | None) -> int:
    """Return the number of workers; 1 for threads, which share torch's generator."""
    backend, _ = get_active_backend()
    shares_memory = getattr(backend, "supports_sharedmem", False)
    return 1 if shares_memory else int(effective_n_jobs(n_jobs))


def run_all(
    function: Callable[..., Any],
    calls: Iterable[tuple[Any, ...]],
    *,
    n_jobs: int | None,
    net: NeuralNet,
) -> Iterator[tuple[int, Any]]:
    """Call a function with each set of arguments; yield positions and results.

    Results come as they are finished. An argument that recurs, such as X, is sent to
    workers once: joblib knows it by its identity. Workers are told of the classes that
    a script defined for the net. Calls whose arguments were lost with the workers of a
    cluster are sent again.
    """
    numbered = enumerate(calls)
    if (n_workers := n_processes(n_jobs)) < 2:
        yield from ((number, function(*arguments)) for number, arguments in numbered)
        return
    # A net that was fitted is pickled by names, which workers are yet to be told of.
    net, sent = clone(net), dict[int, tuple[Any, ...]]()
    n_busy = min(n_workers, length_hint(calls) or n_workers)
    settings = _threads_per_worker(n_busy), torch.get_default_dtype()
    for n_losses in range(1, MOST_LOSSES + 1):
        results = Parallel(n_workers, return_as="generator_unordered")(
            delayed(_run_in_worker)(
                settings, net, number, function, *sent.setdefault(number, arguments)
            )
            for number, arguments in chain([*sent.items()], numbered)
        )
        try:
            for number, result in results:
                del sent[number]
                yield number, pickle.loads(result)
            return
        except pickle.PicklingError as error:
            why = error.__cause__ or error
            raise ValueError(_cannot_travel(n_workers, why)) from error
        except CancelledError as error:
            # Dask cancels what needs data that only stopped workers had.
            _wait_for_others(error, is_last=n_losses == MOST_LOSSES)


def _wait_for_others(error: CancelledError, *, is_last: bool) -> None:
    """Warn that the workers of a cluster stopped, or raise a RuntimeError."""
    problem = "all workers that had the samples stopped"
    advice = (
        "See their logs: they may have run out of memory. With memory=, fit starts "
        "again after the splits that were finished."
    )
    if is_last:
        raise RuntimeError(f"{problem}, {MOST_LOSSES} times. {advice}") from error
    text = f"{problem}. What they had not finished is sent to others."
    warnings.warn(text, UserWarning, stacklevel=6)
    if client := getattr(get_active_backend()[0], "client", None):
        # With a single one joblib would do the work in this process.
        with suppress(TimeoutError):
            client.wait_for_workers(1, timeout=SECONDS_FOR_OTHERS)
            if sum(client.ncores().values()) < 2:
                client.wait_for_workers(2, timeout=SECONDS_FOR_OTHERS)
        if not client.ncores():
            raise RuntimeError(f"{problem}, and no others came. {advice}") from error


def _threads_per_worker(n_workers: int) -> int | None:
    """Return the caller's number of threads, or fewer: workers share its cores.

    With more threads than cores torch is up to twenty times slower. None, the number
    that a worker has, if workers may run elsewhere.
    """
    backend, _ = get_active_backend()
    if type(backend) not in (LokyBackend, MultiprocessingBackend):
        return None
    return int(max(1, min(torch.get_num_threads(), cpu_count() // n_workers)))


def check_travels(net: NeuralNet, n_jobs: int | None) -> None:
    """Raise a ValueError if a net, initialized, cannot come back from a worker."""
    if (n_workers := n_processes(n_jobs)) < 2:
        return
    try:
        pickle.loads(_dumped(net))
    except Exception as error:
        where = _who_stays(net)
        raise ValueError(_cannot_travel(n_workers, error, where)) from error


def _who_stays(net: NeuralNet) -> str:
    """Return the name of an attribute that cannot be pickled, if one is found."""
    parts = [(name, getattr(net, name)) for name in ("module_", "criterion_")]
    parts += [(name, callback) for name, callback in net.callbacks_]
    for owner, part in parts:
        for name, value in getattr(part, "__dict__", {}).items():
            try:
                pickle.loads(_dumped(value))
            except Exception:
                return f" ({owner}.{name})"
    return ""


def _cannot_travel(n_workers: int, error: BaseException, where: str = "") -> str:
    # Of the traceback of another thread only the end helps.
    said = (str(error).strip('"\n ').splitlines() or [type(error).__name__])[-1]
    return (
        f"n_jobs={n_workers}: net{where}, samples or objective cannot be sent between "
        f"processes: {said}. Keep open files, locks and generators out of them, or "
        "set n_jobs=None."
    )


def _run_in_worker(
    settings: tuple[int | None, torch.dtype],
    net: NeuralNet,
    number: int,
    function: Callable[..., Any],
    *arguments: Any,
) -> tuple[int, Any]:
    """Call a function with the settings of the caller.

    They are the number of threads, and the dtype that modules are made in.
    """
    # Workers of dask may run several threads, and torch has one global generator:
    # calls take turns. The sequential backend keeps a call from sharing its work out
    # again, so that no call waits for another one.
    with _ONE_AT_A_TIME, parallel_config(backend="sequential"):
        n_threads, dtype = settings
        if n_threads is not None:
            torch.set_num_threads(n_threads)
        torch.set_default_dtype(dtype)
        register_in_main(net)
        return number, _dumped(function(*arguments))


def _dumped(result: Any) -> bytes:
    """Pickle a result: by the names of what a script defines, if pickle can.

    joblib would send copies of functions and classes, which pickle refuses to write
    later. They are sent where there is no other way, as for a lambda in a module.
    """
    try:
        return pickle.dumps(result)
    except Exception:
        with io.BytesIO() as file:
            _Pickler(file).dump(result)
            return file.getvalue()


class _Pickler(CloudPickler):
    """Pickles fitted nets by value too; skorch itself only knows names."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, NeuralNet):
            return object.__new__, (type(obj),), vars(obj), None, None, _set_attributes
        return super().reducer_override(obj)


def _set_attributes(net: NeuralNet, attributes: dict[str, Any]) -> None:
    vars(net).update(attributes)
