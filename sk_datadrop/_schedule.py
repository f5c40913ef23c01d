"""The work on the splits of a plan: from the cache, or side by side."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import joblib
from tqdm.auto import tqdm

from sk_datadrop._cache import Key, register_in_main
from sk_datadrop._parallel import n_processes, run_all
from sk_datadrop._plan import Plan
from sk_datadrop._samples import Samples

SILENT = tqdm(disable=True)
"""A progress bar for work that nobody watches."""


def progress_bar(n_trainings: int, verbose: int) -> Any:
    """Return a bar over trainings, which shows how long they will still take."""
    return tqdm(total=n_trainings, unit="training", leave=False, disable=not verbose)


def run(
    stage: Callable[..., Any],
    plan: Plan,
    calls: Iterable[tuple[Any, ...]],
    *,
    n_jobs: int | None,
    bar: Any,
) -> list[Any]:
    """Call ``stage(plan, *arguments)`` for each of the calls, and return the results.

    The first argument of a call is the number of its split. The stage is a module-level
    function, which also gets the bar where it runs in this process.
    """
    calls = list(calls)
    results: dict[int, Any] = {}
    keys: list[Key] = []
    if plan.cache is not None:
        register_in_main(plan.net)
        keys = [_key(stage, plan, arguments) for arguments in calls]
        for position, key in enumerate(keys):
            if key in plan.cache:
                compute = partial(stage, plan, *calls[position])
                results[position] = plan.cache.get(key, compute)
                bar.update()
    missing = [position for position in range(len(calls)) if position not in results]
    for number, result in _computed(
        stage, plan, [calls[position] for position in missing], n_jobs, bar
    ):
        position = missing[number]
        if plan.cache is not None:
            plan.cache.get(keys[position], partial(_same, result))
        results[position] = result
        bar.update()
    return [results[position] for position in range(len(calls))]


def _computed(
    stage: Callable[..., Any],
    plan: Plan,
    calls: list[tuple[Any, ...]],
    n_jobs: int | None,
    bar: Any,
) -> Iterable[tuple[int, Any]]:
    if n_processes(n_jobs) < 2:
        here = partial(stage, plan, bar=bar)
        return run_all(here, calls, n_jobs=None, net=plan.net)
    parts = plan.samples.parts()
    return run_all(
        _in_worker,
        [(stage, plan.for_worker(call[0]), call, *parts) for call in calls],
        n_jobs=n_jobs,
        net=plan.net,
    )


def _in_worker(
    stage: Callable[..., Any], plan: Plan, arguments: tuple[Any, ...], *parts: Any
) -> Any:
    return stage(replace(plan, samples=Samples.joined(*parts)), *arguments)


def _key(stage: Callable[..., Any], plan: Plan, arguments: tuple[Any, ...]) -> Key:
    split = plan.splits[arguments[0]]
    return plan.key | {
        "stage": stage.__name__,
        "split": str(joblib.hash([split.train, split.held_out, arguments])),
        "seed": str(plan.seed),
    }


def _same(result: Any) -> Any:
    return result
