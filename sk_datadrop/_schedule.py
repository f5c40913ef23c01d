"""The work on the splits of a plan: from the cache, or side by side."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from math import ceil
from typing import Any

import joblib

from sk_datadrop._cache import Key, register_in_main
from sk_datadrop._parallel import n_processes, run_all
from sk_datadrop._plan import Plan
from sk_datadrop._progress import Progress
from sk_datadrop._samples import Samples

EPOCHS_OF_SCORING = 4
"""Epochs over the samples that take about as long as scoring them."""


def begin_training(
    bar: Progress, plan: Plan, name: str, n_train: int, n_held_out: int = 0
) -> None:
    """Tell the bar of a training on so many samples."""
    bar.begin(name, work_of_training(plan, n_train, n_held_out), _n_epochs(plan))


def work_of_training(plan: Plan, n_train: int, n_held_out: int = 0) -> float:
    """Return the samples that a training sees; predicting takes a third of the time."""
    return _n_epochs(plan) * (n_train + n_held_out / 3)


def work_of_scoring(plan: Plan) -> float:
    """Return the work of scoring a split, in samples that a training sees."""
    return EPOCHS_OF_SCORING * len(plan.samples)


def _n_epochs(plan: Plan) -> int:
    return int(plan.fit_params.get("epochs") or plan.net.max_epochs)


def works_of_round_one(plan: Plan) -> list[float]:
    """Return the work of each split."""
    return [
        work_of_training(plan, len(split.train), len(plan.validation or split.held_out))
        + work_of_scoring(plan)
        for split in plan.splits
    ]


def work_of_fit(plan: Plan, n_refits: int) -> float:
    """Return the work of all stages, and of so many trainings on what is kept."""
    works, n_splits = works_of_round_one(plan), len(plan.splits)
    work = sum(works) * _pace(n_splits, plan.n_jobs if n_splits > 1 else None)
    if not plan.ends_early:
        # "auto" compares at most two candidates per split.
        trainings = sum(works) - n_splits * work_of_scoring(plan)
        work += 2 * trainings * _pace(2 * n_splits, plan.n_jobs)
    return work + n_refits * work_of_training(plan, len(plan.samples))


def _pace(n_calls: int, n_jobs: int | None) -> float:
    """Return the share of the time one by one that calls side by side take."""
    return ceil(n_calls / n_processes(n_jobs)) / max(n_calls, 1)


def run(
    stage: Callable[..., Any],
    plan: Plan,
    calls: Iterable[tuple[Any, ...]],
    works: list[float],
    *,
    n_jobs: int | None,
    bar: Progress,
    name: str,
) -> list[Any]:
    """Call ``stage(plan, *arguments)`` for each of the calls, and return the results.

    The first argument of a call is the number of its split. The stage is a module-level
    function, which also gets the bar where it runs in this process, and moves it on;
    otherwise `works`, one per call, tell by how much a result does. The name is that
    of the stage.
    """
    calls = list(calls)
    results: dict[int, Any] = {}
    keys: list[Key] = []
    if plan.cache is not None:
        register_in_main(plan.net)
        keys = [_key(stage, plan, arguments) for arguments in calls]
        for position, key in enumerate(keys):
            for result in plan.cache.find(key):
                bar.begin(f"{name}, from memory", works[position])
                results[position] = result
    missing = [position for position in range(len(calls)) if position not in results]
    if plan.cache is not None and missing:
        plan.cache.check_writable()
    has_workers, pace = n_processes(n_jobs) > 1, _pace(len(calls), n_jobs)
    if has_workers and missing:
        bar.begin(f"{name}, {len(results)} of {len(calls)} done")
    for number, result in _computed(
        stage, plan, [calls[position] for position in missing], n_jobs, bar
    ):
        position = missing[number]
        if plan.cache is not None:
            plan.cache.keep(keys[position], result, name)
        results[position] = result
        if has_workers:
            text = f"{name}, {len(results)} of {len(calls)} done"
            bar.count(text, works[position] * pace)
    return [results[position] for position in range(len(calls))]


def _computed(
    stage: Callable[..., Any],
    plan: Plan,
    calls: list[tuple[Any, ...]],
    n_jobs: int | None,
    bar: Progress,
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
