"""Calls made by other processes, through joblib, with the result of making them here.

Whoever sets a backend of joblib (loky, dask, ray) has the calls made there.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from threading import Lock
from typing import Any

import torch
from joblib import Parallel, delayed, effective_n_jobs, parallel_config
from joblib.parallel import get_active_backend

from sk_datadrop._memory import lend_to_main

_ONE_AT_A_TIME = Lock()


def n_processes(n_jobs) -> int:
    """Workers to use; 1 under a backend of threads, which share torch's generator."""
    backend, _ = get_active_backend()
    shares_memory = getattr(backend, "supports_sharedmem", False)
    return 1 if shares_memory else effective_n_jobs(n_jobs)


def run_all(
    function: Callable, calls: Iterable[dict[str, Any]], *, n_jobs, net
) -> Iterator:
    """Call a function with each set of arguments, and yield the results in order.

    Parameters
    ----------
    function : callable
    calls : iterable of dict
        Arguments by name.
    n_jobs : int or None
        Calls at a time.
    net : skorch.NeuralNet
        What the arguments are about: workers are told of the classes that a script
        defined for it.

    Yields
    ------
    object
        What the function returned.
    """
    n_workers = n_processes(n_jobs)
    if n_workers > 1:
        function = partial(_run_in_worker, function, torch.get_num_threads(), net)
    yield from Parallel(n_workers, return_as="generator")(
        delayed(function)(**arguments) for arguments in calls
    )


def _run_in_worker(function: Callable, n_threads: int, lent, /, **arguments):
    """Call a function as the caller would: sums depend on the number of threads."""
    # A worker of dask may have several threads, and torch has one generator. What is
    # called here shares nothing out again, and so waits for no other.
    with _ONE_AT_A_TIME, parallel_config(backend="sequential"):
        torch.set_num_threads(n_threads)
        lend_to_main(lent)
        return function(**arguments)
