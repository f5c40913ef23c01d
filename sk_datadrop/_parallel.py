"""Calls side by side, through joblib, with the result of making them one by one.

Whoever sets a backend of joblib (loky, dask, ray) has the calls made there.
"""

import pickle
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from threading import Lock
from typing import Any

import torch
from joblib import Parallel, delayed, effective_n_jobs, parallel_config
from joblib.parallel import get_active_backend
from skorch import NeuralNet

from sk_datadrop._cache import register_in_main

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
    a script defined for the net.
    """
    numbered = enumerate(calls)
    if (n_workers := n_processes(n_jobs)) < 2:
        yield from ((number, function(*arguments)) for number, arguments in numbered)
        return
    results = Parallel(n_workers, return_as="generator_unordered")(
        delayed(_run_in_worker)(
            (torch.get_num_threads(), torch.get_default_dtype()),
            net,
            number,
            function,
            *arguments,
        )
        for number, arguments in numbered
    )
    for number, result in results:
        yield number, pickle.loads(result) if isinstance(result, bytes) else result


def _run_in_worker(
    settings: tuple[int, torch.dtype],
    net: NeuralNet,
    number: int,
    function: Callable[..., Any],
    *arguments: Any,
) -> tuple[int, Any]:
    """Call a function as the caller would: sums depend on the number of threads.

    The settings are that number, and the dtype that modules are made in.
    """
    # Workers of dask may run several threads, and torch has one global generator:
    # calls take turns. The sequential backend keeps a call from sharing its work out
    # again, so that no call waits for another one.
    with _ONE_AT_A_TIME, parallel_config(backend="sequential"):
        n_threads, dtype = settings
        torch.set_num_threads(n_threads)
        torch.set_default_dtype(dtype)
        register_in_main(net)
        return number, _by_name(function(*arguments))


def _by_name(result: Any) -> Any:
    """Return bytes that name the functions of a script, if pickle can write them.

    joblib would send copies of these functions, which pickle refuses to write later.
    """
    with suppress(Exception):
        return pickle.dumps(result)
    return result
