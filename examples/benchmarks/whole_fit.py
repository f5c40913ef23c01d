"""How long does a whole fit take, as a user calls it?

fits
    A plain training, `DataDropoutClassifier` with its defaults, and cleanlab's
    ``CleanLearning`` with its five folds, one after the other in one process and then
    all again, on cells of the gauntlet: nets for images and tables, a fifth of the
    labels wrong. Of targets that are numbers or images ours and the plain training
    only. With the accuracy and the loss on clean test samples, and the seconds of each
    stage of our fit.
workers
    Whole processes, from their start to their end, for one worker and two, numbers of
    threads, and numbers of splits: seconds, and the most memory that the process and
    its workers hold together. Beside the gain that two workers would have if the
    trainings of round 1 shared the cores and nothing else took time.

Every result is saved as soon as it is measured; a run that was killed goes on with the
next one. The part "fits" is meant for ``OMP_NUM_THREADS=1``; the part "workers" sets
the variable for each process, and needs two idle cores.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread

import _cells
import _peers
import numpy as np
import psutil
from fidelity import mnist, parse_parts, read_results, save_results
from gauntlet import as_markdown, evaluate, predictions
from sklearn.base import clone
from speed import amount

from sk_datadrop import DataDropoutClassifier, DataDropoutRegressor
from sk_datadrop._training import seeded

PARTS = ("fits", "workers")
FITS, WORKERS = (
    Path(__file__).with_name("results") / f"{name}.json"
    for name in ("whole_fit", "workers")
)
THOUSAND = partial(_cells.small_mnist, n_train=1000)
CELLS: dict[str, Callable[..., _cells.Problem]] = {
    "CNN, 2,000 digits": partial(_cells.MNIST_CNN, damage=_cells.TWENTY),
    "ResNet, 1,000 digits": partial(
        _cells.MNIST_RESNET, load=THOUSAND, damage=_cells.TWENTY
    ),
    "attention, 1,000 digits": partial(
        _cells.MNIST_ATTENTION, load=THOUSAND, damage=_cells.TWENTY
    ),
    "MLP, cuts of 4,000 diamonds": partial(
        _cells.REPORTING["MLP, cuts of diamonds, clean"], damage=_cells.TWENTY
    ),
    "MLP, prices of 4,000 diamonds": _cells.REPORTING["MLP, diamonds, swapped 20 %"],
    "DnCNN, 700 photographs": _cells.REPORTING["DnCNN, photographs, swapped 20 %"],
}
SEED = 10
"""The first of the seeds that are for reporting: no default was set by them."""


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3, help="of the part fits")
    parser.add_argument("--cells", default="", help="only names this pattern is in")
    parser.add_argument("--settings", default="", help="only those, of workers")
    parser.add_argument("--quick", action="store_true", help="tiny, to see it run")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    parser.add_argument("--folder", type=Path, default=Path(), help="for the results")
    parsed = parse_parts(parser, PARTS, arguments)
    if parsed.quick:
        parsed.repeats = 1
    return parsed


# Whole fits in one process: problem -> (fitted, what to note besides).


def plain(problem):
    """Train on all samples."""
    with seeded(problem.seed, "cpu"):
        return clone(problem.net).fit(*problem.train), {}


def ours(problem):
    """Fit with the defaults."""
    kind = DataDropoutClassifier if problem.is_classifier else DataDropoutRegressor
    model = kind(problem.net, random_state=problem.seed).fit(*problem.train)
    return model, {"stages": model.timings_, "dropped": model.n_dropped_}


def cleanlab(problem):
    """Fit ``CleanLearning`` with its defaults: five folds, and a last training."""
    library = import_module("cleanlab.classification")
    with seeded(problem.seed, "cpu"):
        # In one process, as the others.
        learner = library.CleanLearning(
            clone(problem.net),
            seed=problem.seed,
            find_label_issues_kwargs={"n_jobs": 1},
        )
        learner.fit(*problem.train)
    issues = learner.get_label_issues()["is_label_issue"]
    return learner, {"dropped": int(issues.sum())}


METHODS = {"plain training": plain, "sk_datadrop": ours, "cleanlab": cleanlab}


def run_fits(arguments):
    output = arguments.folder / FITS.name
    for name, make in CELLS.items():
        if re.search(arguments.cells, name):
            name += " (quick)" * arguments.quick
            measure_cell(name, make, arguments, output)


def measure_cell(name, make, arguments, output) -> None:
    """Fit by each method in turn, as often as wanted, except what is known."""
    lines = read_results(output).get(name, {"lines": {}})["lines"]
    problem = make(SEED, arguments.quick)
    methods = (
        METHODS if problem.is_classifier else [m for m in METHODS if m != "cleanlab"]
    )
    if all(len(lines.get(m, [])) >= arguments.repeats for m in methods):
        print(f"{name}: known already", flush=True)
        return
    # Lazy parts of torch and of the libraries are loaded before.
    tiny = make(SEED, quick=True)
    for method in methods:
        _peers.answer(METHODS[method], tiny)
    facts = {"environment": _peers.environment(), "samples": len(problem.spoiled)}
    facts["wrong"] = int(problem.spoiled.sum())
    for repeat in range(arguments.repeats):
        for method in methods:
            calls = lines.setdefault(method, [])
            if len(calls) > repeat or (calls and "note" in calls[-1]):
                continue
            calls.append(measure_fit(METHODS[method], problem))
            print(f"  {name}: {method}: {calls[-1]}", flush=True)
            save_results(output, {name: {**facts, "lines": lines}})


def measure_fit(method, problem) -> dict:
    """Seconds of a fit, how good it is, and what it notes; or why there is none."""
    start = time.perf_counter()
    fitted, note = _peers.answer(method, problem)
    seconds = time.perf_counter() - start
    if fitted is None:
        return {"note": note}
    model, notes = fitted
    score, loss = evaluate(predictions(model, problem), problem)
    return {"seconds": seconds, "score": score, "loss": loss, **notes}


# Whole processes.

THREADS = ("unset", "1", "2", "set to 2")
"""Values of OMP_NUM_THREADS; the last calls ``torch.set_num_threads`` instead."""
SETTINGS = [(4, threads, n_jobs) for threads in THREADS for n_jobs in (1, 2)]
SETTINGS += [(cv, "1", n_jobs) for cv in (2, 3) for n_jobs in (1, 2)]


def run_workers(arguments):
    output = arguments.folder / WORKERS.name
    settings = [(2, "1", n_jobs) for n_jobs in (1, 2)] if arguments.quick else SETTINGS
    n_train, epochs = (200, 2) if arguments.quick else (4000, 16)
    (X, y), _ = _cells.split_rows(*mnist(), n_train, 0, SEED)
    X, y, _ = _cells.TWENTY(X, y, SEED)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "digits.npz"
        np.savez(path, X=X, y=y)
        for setting in settings:
            name = "cv={}, threads {}, n_jobs={}".format(*setting)
            name += " (quick)" * arguments.quick
            if not re.search(arguments.settings, name):
                continue
            if "seconds" in read_results(output).get(name, {}):
                print(f"{name}: known already", flush=True)
                continue
            found = measure_process(*setting, epochs, path)
            print(f"  {name}: {found}", flush=True)
            facts = dict(zip(("cv", "threads", "n_jobs"), setting, strict=True))
            facts["environment"] = _peers.environment()
            save_results(output, {name: {**facts, **found}})


def measure_process(cv, threads, n_jobs, epochs, path) -> dict:
    """Run the script of a user, with OMP_NUM_THREADS as said."""
    script = Path(__file__).with_name("_one_fit.py")
    options = [str(value) for value in (cv, threads, n_jobs, epochs, path)]
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    if threads in ("1", "2"):
        environment["OMP_NUM_THREADS"] = threads
    return outcome_of([str(script), *options], environment)


def outcome_of(arguments, environment) -> dict:
    """Seconds of a Python process, what it says of its stages, and bytes at the peak.

    The bytes are those of the process and its children; what they share counts twice.
    """
    command = [sys.executable, "-W", "ignore", *arguments]
    start = time.perf_counter()
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, text=True
    )
    over, peak = Event(), [0]
    watcher = Thread(target=watch_memory, args=(process.pid, over, peak))
    watcher.start()
    shown, _ = process.communicate()
    seconds = time.perf_counter() - start
    over.set()
    watcher.join()
    if process.returncode:
        return {"note": f"failed with exit status {process.returncode}"}
    stages = dict(re.findall(r"^(\w+)=(\S+)$", shown, re.MULTILINE))
    return {
        "seconds": seconds,
        "bytes": peak[0],
        "stages": {name: float(value) for name, value in stages.items()},
    }


def watch_memory(pid, over, peak) -> None:
    """Keep the largest sum of the resident sets of a process and its children."""
    while not over.wait(0.1):
        try:
            parent = psutil.Process(pid)
            processes = [parent, *parent.children(recursive=True)]
            size = sum(process.memory_info().rss for process in processes)
        except psutil.NoSuchProcess:
            continue
        peak[0] = max(peak[0], size)


def most_gain(n_splits, n_workers=2) -> float:
    """Return how many times faster a fit can be at most, by Amdahl's law.

    Round 1 is a training on all samples but those held out, once per split. Workers
    share the splits, and round 2 is a training on all samples in one process.
    """
    share = (n_splits - 1) / n_splits
    alone = n_splits * share + 1
    return alone / (ceil(n_splits / n_workers) * share + 1)


# Tables.


def median(calls, name) -> float:
    return float(np.median([call[name] for call in calls]))


def fit_table(results) -> str:
    """Seconds as multiples of a plain training, and how good the nets are."""
    rows = []
    for cell, result in results.items():
        lines = {m: c for m, c in result["lines"].items() if "note" not in c[-1]}
        once = median(lines["plain training"], "seconds")
        for method, calls in lines.items():
            seconds = median(calls, "seconds")
            rows.append(
                [
                    cell,
                    method,
                    amount(seconds),
                    amount(seconds / once),
                    *stage_cells(calls),
                    score_cell(median(calls, "score"), cell),
                    f"{median(calls, 'loss'):.3g}",
                ]
            )
    header = ["problem", "method", "seconds", "plain trainings"]
    header += ["round 1", "scoring", "round 2", "score", "loss"]
    return as_markdown(header, rows)


def stage_cells(calls) -> list[str]:
    """Return the seconds of each stage; empty ones for what is none of ours."""
    stages = [call["stages"] for call in calls if "stages" in call]
    names = ("round_one", "scoring", "round_two")
    return [amount(median(stages, name)) if stages else "" for name in names]


def score_cell(score, cell) -> str:
    """Return an accuracy in percent, R2, or PSNR in dB."""
    if "photographs" in cell:
        return f"{score:.1f} dB"
    return f"R2 {score:.3f}" if "prices" in cell else f"{100 * score:.1f} %"


def worker_table(results) -> str:
    """Seconds of whole processes, with one worker and with two."""
    pairs: dict[tuple, dict] = {}
    for result in results.values():
        if "note" not in result:
            key = result["cv"], result["threads"]
            pairs.setdefault(key, {})[result["n_jobs"]] = result
    rows = []
    for (cv, threads), pair in pairs.items():
        gain = pair[1]["seconds"] / pair[2]["seconds"] if len(pair) == 2 else np.nan
        cells = []
        for n_jobs in (1, 2):
            found = pair.get(n_jobs)
            cells += [amount(found["seconds"]) if found else ""]
            cells += [f"{found['bytes'] / 1e6:,.0f}" if found else ""]
        rows.append([str(cv), threads, *cells, amount(gain), amount(most_gain(cv))])
    header = ["cv", "threads", "n_jobs=1, s", "MB", "n_jobs=2, s", "MB"]
    return as_markdown([*header, "times faster", "at most"], rows)


def tables(fits, workers) -> dict[str, str]:
    """Return every table by its name in the docs."""
    return {"whole_fit": fit_table(fits), "workers": worker_table(workers)}


def main(arguments=None):
    arguments = parse_arguments(arguments)
    for part in () if arguments.table else arguments.parts:
        {"fits": run_fits, "workers": run_workers}[part](arguments)
    found = [read_results(arguments.folder / path.name) for path in (FITS, WORKERS)]
    for table in tables(*found).values():
        print(f"\n{table}")


if __name__ == "__main__":
    main()
