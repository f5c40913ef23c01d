"""Many nets, many ways to be wrong, many rivals: how good is the net at the end?

For every cell of ``_cells.py`` and every seed, each method answers, and the same net is
trained from scratch on what the method keeps, always from the same fresh initial
weights (the mean of three trainings where the net is small). What counts is the result
on test samples that are clean and that nothing else has seen.

none, oracle
    All samples; the samples that are not spoiled.
oracle, as many steps
    The same, topped up with repeats of some to as many samples as there were, so that
    the optimiser takes as many steps.
cleanlab
    ``CleanLearning`` around the same net, as it comes.
AUM
    Area under the margin with its threshold samples (arXiv:2001.10528).
GCE, label smoothing, Huber, L1
    All samples, and another criterion.
early stopping
    The epoch of the lowest loss of a fifth of the samples, on which it does not train.
literal rule
    That of the Data Dropout paper: one net, trained to the end; every sample whose
    influence on the training loss of a fifth of the samples is negative is dropped.
data dropout
    ``DataDropoutTransformer`` as it comes; what it keeps is topped up.
data dropout, fewer steps
    The same without topping up.
data dropout, weigh or mend
    Nothing is dropped: samples count by one minus their chance of harm, or their
    targets are mended.
random
    As many samples of each class as data dropout drops, at random; topped up.
highest loss
    As many samples as data dropout drops, those of the highest loss when held out, at
    the epoch of the lowest held-out loss of the very nets of its round 1.
mean of round 1's nets
    Mean of the predictions of these nets, at these epochs.

Every result is a line of ``--results``, written as it comes: a killed run resumes, more
seeds add to what is there, and several processes may work on different seeds, cells or
methods of one file. ``--replace`` computes the chosen ones again; the last line counts.
Tables of everything in the file are printed at the end, or at once with ``--table``.
Rivals that are not installed are left out with a message;
``pip install sk_datadrop[bench]`` brings them.
"""

import argparse
import json
import re
import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib import import_module
from pathlib import Path
from time import perf_counter

import _peers
import _rivals
import numpy as np
import torch
from _cells import CHOOSING, REPORTING, Problem
from _nets import TableNet
from _peers import CannotAnswer
from scipy import stats
from sklearn.base import clone
from sklearn.metrics import accuracy_score, log_loss
from torch import nn

from sk_datadrop import DataDropoutTransformer, DataDropoutWarning
from sk_datadrop._drop import as_many_rows
from sk_datadrop._plan import make_plan
from sk_datadrop._progress import SILENT
from sk_datadrop._samples import Samples
from sk_datadrop._splits import Split
from sk_datadrop._training import Recipe, train
from sk_datadrop._treatment import treat
from sk_datadrop._two_rounds import gather, judge, score_splits
from sk_datadrop._weighing import WeightedIterator
from sk_datadrop.metrics import mean_squared_error, peak_signal_noise_ratio, r2_score

CELLS = CHOOSING | REPORTING
GROUPS = {"choosing": CHOOSING, "reporting": REPORTING, "all": CELLS}
RESULTS = Path(__file__).with_name("results") / "gauntlet.jsonl"

FIRST_FINAL_SEED = 10_000
"""The nets compared share no seed with those that chose the samples."""

FIRST_REPORTING_SEED = 10
SMALLEST_SHARE, LARGEST_SHARE = -1.0, 1.5
"""Bounds of the share of a gap that one cell brings into a mean."""


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="cell", help="by their full name")
    parser.add_argument("--group", choices=GROUPS, default="reporting")
    parser.add_argument("--seeds", type=int, default=3, help="repetitions")
    parser.add_argument(
        "--first-seed", type=int, help="default: 10 for reporting, 0 for choosing"
    )
    parser.add_argument("--cells", default="", help="only names this pattern is in")
    parser.add_argument("--methods", default="", help="only names this pattern is in")
    parser.add_argument("--quick", action="store_true", help="tiny, to see it run")
    parser.add_argument("--table", action="store_true", help="train nothing")
    parser.add_argument("--replace", action="store_true", help="compute again")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--cache", type=Path, default=Path("gauntlet-cache"))
    parsed = parser.parse_args(arguments)
    if unknown := set(parsed.names) - set(CELLS):
        parser.error(f"cells are {', '.join(CELLS)}; got {unknown}")
    if parsed.quick:
        parsed.results = parsed.results.with_stem(f"{parsed.results.stem}-quick")
    return parsed


# Lines.

Key = tuple[str, int, str]
"""Cell, seed, method."""


def read_lines(path: Path) -> dict[Key, dict]:
    """Return the last line of each key."""
    lines = {}
    for text in path.read_text().splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue  # the line that a killed run was writing
        lines[line["cell"], line["seed"], line["method"]] = line
    return lines


def add_line(path: Path, line: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    is_torn = path.exists() and not path.read_bytes().endswith(b"\n")
    with path.open("a") as file:
        file.write("\n" * is_torn + json.dumps(rounded(line)) + "\n")


def rounded(value):
    """Floats to six digits, wherever they are."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: rounded(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v) for v in value]
    return value


# Final nets, and how good they are.


def predictions(net, problem) -> np.ndarray:
    """Probabilities, or values, for the test samples."""
    X, _ = problem.test
    return (net.predict_proba if problem.is_classifier else net.predict)(X)


def evaluate(predicted, problem) -> tuple[float, float]:
    """Accuracy and log loss, or R2 (of images PSNR in dB) and mean squared error."""
    _, y = problem.test
    if problem.is_classifier:
        probabilities = predicted.astype(np.float64)
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        labels = np.arange(probabilities.shape[1])
        accuracy = accuracy_score(y, probabilities.argmax(1))
        return float(accuracy), float(log_loss(y, probabilities, labels=labels))
    score = peak_signal_noise_ratio if y.ndim > 1 else r2_score
    return float(score(y, predicted)), float(mean_squared_error(y, predicted))


def outcome_of(problem, final_net: Callable) -> dict:
    """Means over the final nets, each of which is trained by a recipe of its own."""
    n_finals = 3 if problem.net.module is TableNet else 1
    found, seconds = [], 0.0
    for number in range(n_finals):
        seed = FIRST_FINAL_SEED + 100 * problem.seed + number
        start = perf_counter()
        net = final_net(Recipe("final training", seed))
        seconds += perf_counter() - start
        found.append(evaluate(predictions(net, problem), problem))
    return outcome(found, seconds / n_finals)


def outcome(found: list[tuple[float, float]], seconds: float) -> dict:
    scores, losses = (list(values) for values in zip(*found, strict=True))
    return {
        "score": float(np.mean(scores)),
        "loss": float(np.mean(losses)),
        "scores": scores,
        "losses": losses,
        "seconds": seconds,
    }


# Methods.


@dataclass(frozen=True)
class Answer:
    """Samples that a method keeps, what becomes of them, and the cost until then."""

    kept: np.ndarray
    """Mask."""
    trainings: float = 0
    seconds: float = 0.0
    rows: np.ndarray | None = None
    """Indices to train on; None: those kept."""
    params: dict = field(default_factory=dict)
    """Changes to the net that is trained on them."""
    outcome: dict | None = None
    """Of a method that has its nets already."""
    notes: dict = field(default_factory=dict)


@dataclass
class Context:
    """A problem and what its methods share."""

    problem: Problem
    memory: Path
    outcomes: dict[bytes, dict] = field(default_factory=dict)
    """Results of the plain nets trained so far, by the rows they were trained on."""

    @property
    def everything(self) -> np.ndarray:
        return np.ones(len(self.problem.spoiled), dtype=bool)

    @cached_property
    def round_one(self) -> tuple[DataDropoutTransformer, list[str]]:
        """The fitted selector, and what it warned of."""
        selector = DataDropoutTransformer(
            _rivals.with_callback(self.problem.net, _rivals.BestWeights()),
            memory=str(self.memory),
            random_state=self.problem.seed,
        )
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            selector.fit(*self.problem.train)
        ours = [w for w in caught if issubclass(w.category, DataDropoutWarning)]
        return selector, [str(warning.message) for warning in ours]

    @property
    def selector(self) -> DataDropoutTransformer:
        return self.round_one[0]

    @cached_property
    def splits(self) -> list[Split]:
        """Splits of round 1."""
        plan = make_plan(clone(self.selector), *self.problem.train, None, None, {})
        return plan.splits

    @property
    def trainings_of_round_one(self) -> float:
        nets = self.selector.round_one_estimators_
        n_trained = sum(
            len(split.train) * len(net.history)
            for split, net in zip(self.splits, nets, strict=True)
        )
        return n_trained / len(self.problem.spoiled) / self.problem.net.max_epochs

    @cached_property
    def best_nets(self) -> list:
        """Nets of round 1, at their best epochs."""
        return list(map(_rivals.at_best_epoch, self.selector.round_one_estimators_))

    def topped_up(self, kept) -> np.ndarray:
        rng = np.random.default_rng([self.problem.seed, 5])
        return as_many_rows(np.flatnonzero(kept), len(kept), rng)

    def result_of(self, answer: Answer) -> dict:
        """Train on the samples kept, from weights that no method has seen."""
        if answer.outcome is not None:
            return answer.outcome
        problem, rows = self.problem, self.rows_of(answer)
        net = clone(problem.net).set_params(**answer.params)
        samples = Samples(*problem.rows(rows))
        if answer.params:
            return outcome_of(problem, partial(train, net, samples))
        key = rows.tobytes()
        if key not in self.outcomes:
            self.outcomes[key] = outcome_of(problem, partial(train, net, samples))
        return self.outcomes[key]

    def rows_of(self, answer: Answer) -> np.ndarray:
        return np.flatnonzero(answer.kept) if answer.rows is None else answer.rows


def keep_all(context):
    return Answer(context.everything)


def keep_unspoiled(context):
    return Answer(~context.problem.spoiled)


def unspoiled_topped_up(context):
    kept = ~context.problem.spoiled
    return Answer(kept, rows=context.topped_up(kept))


def cleanlab(context):
    start = perf_counter()
    kept, n_trainings = _rivals.cleanlab(context.problem)
    return Answer(kept, n_trainings, perf_counter() - start)


def area_under_margin(context):
    start = perf_counter()
    kept = _rivals.area_under_margin(context.problem)
    return Answer(kept, 2, perf_counter() - start)


def literal_rule(context):
    start = perf_counter()
    kept = _rivals.literal_rule(context.problem)
    share = 1 - _rivals.HELD_OUT_SHARE
    return Answer(kept, share, perf_counter() - start)


def for_classes(context, **params):
    if not context.problem.is_classifier:
        raise CannotAnswer("classification only")
    return Answer(context.everything, params=params)


def huber(context):
    if context.problem.train[1].ndim > 1:
        raise CannotAnswer("no pixel is off by one unit: half the squared error")
    return for_values(context, criterion=nn.HuberLoss)


def for_values(context, **params):
    if context.problem.is_classifier:
        raise CannotAnswer("regression only")
    return Answer(context.everything, params=params)


def early_stopping(context):
    problem = context.problem
    outcome = outcome_of(problem, partial(_rivals.stopped_early, problem))
    share = 1 - _rivals.HELD_OUT_SHARE
    return Answer(context.everything, share, outcome=outcome)


def selection_of(context) -> dict:
    """What choosing the samples took."""
    # Splits from the cache report the seconds of the run that computed them.
    return {
        "trainings": context.trainings_of_round_one,
        "seconds": sum(context.selector.timings_.values()),
    }


def data_dropout(context):
    selector, messages = context.round_one
    notes = {
        "warnings": messages,
        "summary": selector.summary_,
        "is_regression": not context.problem.is_classifier,
        "reliability": reliability(selector.harm_probability_, context.problem.spoiled),
    }
    return Answer(
        selector.sample_mask_,
        **selection_of(context),
        rows=context.topped_up(selector.sample_mask_),
        notes={name: json_value(note) for name, note in notes.items()},
    )


def reliability(harm_probability, spoiled) -> list[list[float]]:
    """Per tenth of the chance: samples, how many are spoiled, sum of their chances."""
    known = ~np.isnan(harm_probability)
    chance, spoiled = harm_probability[known], spoiled[known]
    tenth = np.minimum((10 * chance).astype(int), 9)
    sums = [np.bincount(tenth, w, minlength=10) for w in (None, spoiled, chance)]
    return np.transpose(sums).tolist()


def json_value(note):
    return json.loads(json.dumps(note, default=str))


def fewer_steps(context):
    return Answer(context.selector.sample_mask_, **selection_of(context))


def treated(context, on_harmful):
    selector, problem = context.selector, context.problem
    plan = make_plan(clone(selector), *problem.train, None, None, {})
    # From the cache.
    results = score_splits(plan, SILENT)
    evidence = gather(plan, results)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataDropoutWarning)
        verdict = judge(plan, results, evidence, stacklevel=1)
    nets = [(result.net, result.best_state) for result in results]
    weights, targets, _ = treat(plan, evidence, verdict, nets, on_harmful)
    if weights is None and targets is None:
        return Answer(context.everything, **selection_of(context))
    samples = plan.samples if targets is None else plan.samples.with_targets(targets)
    iterator = None
    if weights is not None:
        iterator = partial(WeightedIterator, weights=weights, same_steps=True)
    found = outcome_of(problem, partial(train, problem.net, samples, iterator=iterator))
    selection = selection_of(context)
    selection["trainings"] += 1
    return Answer(context.everything, **selection, outcome=found)


def random(context):
    rng = np.random.default_rng([context.problem.seed, 3])
    kept, labels = context.selector.sample_mask_.copy(), context.problem.labels
    for label in np.unique(labels):
        kept[labels == label] = rng.permutation(kept[labels == label])
    return Answer(kept, rows=context.topped_up(kept))


def highest_loss(context):
    losses = held_out_losses(context)
    n_dropped = int(np.sum(~context.selector.sample_mask_))
    kept = context.everything
    kept[np.argsort(-losses, kind="stable")[:n_dropped]] = False
    seconds = context.selector.timings_["round_one"]
    return Answer(kept, context.trainings_of_round_one, seconds)


def held_out_losses(context) -> np.ndarray:
    """Mean loss of each sample in the nets that did not see it, at their best epochs.

    A sample that all of them have seen has none.
    """
    problem = context.problem
    row_losses = _peers.make_row_losses(problem.is_classifier)
    total, count = np.zeros((2, len(problem.spoiled)))
    for split, net in zip(context.splits, context.best_nets, strict=True):
        X, y = problem.rows(split.held_out)
        y = torch.as_tensor(y if problem.is_classifier else y.reshape(len(y), -1))
        outputs = net.forward(X)
        outputs = outputs if problem.is_classifier else outputs.reshape(y.shape)
        total[split.held_out] += row_losses(outputs, y).numpy()
        count[split.held_out] += 1
    return np.where(count > 0, total / np.maximum(count, 1), -np.inf)


def mean_of_nets(context):
    problem = context.problem
    mean = np.mean([predictions(net, problem) for net in context.best_nets], axis=0)
    seconds = context.selector.timings_["round_one"]
    return Answer(
        context.everything,
        context.trainings_of_round_one,
        outcome=outcome([evaluate(mean, problem)], seconds),
    )


METHODS: dict[str, Callable[[Context], Answer]] = {
    "none": keep_all,
    "oracle": keep_unspoiled,
    "oracle, as many steps": unspoiled_topped_up,
    "cleanlab": cleanlab,
    "AUM": area_under_margin,
    "GCE": partial(for_classes, criterion=_rivals.GeneralisedCrossEntropy),
    "label smoothing": partial(for_classes, criterion__label_smoothing=0.2),
    "Huber": huber,
    "L1": partial(for_values, criterion=nn.L1Loss),
    "early stopping": early_stopping,
    "literal rule": literal_rule,
    "data dropout": data_dropout,
    "data dropout, fewer steps": fewer_steps,
    "data dropout, weigh": partial(treated, on_harmful="weigh"),
    "data dropout, mend": partial(treated, on_harmful="mend"),
    "random": random,
    "highest loss": highest_loss,
    "mean of round 1's nets": mean_of_nets,
}
OURS = "data dropout"
MENDING = "data dropout, mend"
RIVALS = [m for m in METHODS if m not in (OURS, "oracle", "oracle, as many steps")]


# Runs.


def run_seed(cell, seed, methods, arguments) -> None:
    """All methods that have no line yet."""
    # Read every time: others may write to the same file.
    lines = read_lines(arguments.results)
    missing = [
        method
        for method in methods
        if arguments.replace or (cell, seed, method) not in lines
    ]
    if not missing:
        return
    try:
        problem = CELLS[cell](seed, arguments.quick)
    except CannotAnswer as error:
        print(f"{cell}: left out, {error}")
        return
    context = Context(problem, arguments.cache)
    if "none" not in missing and (known := lines.get((cell, seed, "none"))):
        everything = context.rows_of(keep_all(context)).tobytes()
        context.outcomes[everything] = {name: known[name] for name in OUTCOME}
    for method in missing:
        line, note = _peers.answer(results_of, context, METHODS[method])
        if line is None:
            print(f"{cell}; {seed}; {method}: left out, {note}", flush=True)
            continue
        line = {"cell": cell, "seed": seed, "method": method, **line}
        add_line(arguments.results, line)
        print_line(line)


OUTCOME = ("score", "loss", "scores", "losses", "seconds")


def results_of(context, method) -> dict:
    """What a method chose, and how good the net trained on it is."""
    answer = method(context)
    result = context.result_of(answer)
    dropped, spoiled = ~answer.kept, context.problem.spoiled
    n_rows, n_spoiled = len(spoiled), int(spoiled.sum())
    hits = int(np.sum(dropped & spoiled))
    final = 0 if answer.outcome else len(context.rows_of(answer)) / n_rows
    return {
        **result,
        "seconds": answer.seconds + result["seconds"],
        "rows": n_rows,
        "spoiled": n_spoiled,
        "dropped": int(dropped.sum()),
        "precision": hits / int(dropped.sum()) if dropped.any() else None,
        "recall": hits / n_spoiled if n_spoiled else None,
        "clean_dropped": float(np.mean(dropped[~spoiled])),
        "trainings": float(answer.trainings + final),
        **answer.notes,
    }


def print_line(line):
    found = "".join(
        f", {name} {line[name]:.3f}"
        for name in ("precision", "recall")
        if line[name] is not None
    )
    print(
        f"{line['cell']}; {line['seed']}; {line['method']}: score {line['score']:.4f}, "
        f"loss {line['loss']:.4g}, dropped {line['dropped']} of {line['rows']}{found}, "
        f"{line['trainings']:.3g} trainings, {line['seconds']:.1f} s",
        flush=True,
    )


# Tables.

Lines = dict[int, dict]
"""Results of one method on one cell, by seed."""
Results = dict[str, dict[str, Lines]]
"""The same by cell and method, in the order of `CELLS` and `METHODS`."""


def read_results(path: Path) -> Results:
    found: dict = defaultdict(lambda: defaultdict(dict))
    for (cell, seed, method), line in read_lines(path).items():
        found[cell][method][seed] = line
    return {
        cell: {
            method: found[cell][method] for method in METHODS if method in found[cell]
        }
        for cell in CELLS
        if cell in found
    }


def is_damaged(methods: dict[str, Lines]) -> bool:
    return any(line["spoiled"] for lines in methods.values() for line in lines.values())


def damaged(results: Results) -> Results:
    return {cell: methods for cell, methods in results.items() if is_damaged(methods)}


def undamaged(results: Results) -> Results:
    return {c: methods for c, methods in results.items() if not is_damaged(methods)}


def answered(results: Results) -> list[str]:
    """Methods that have a line anywhere."""
    return [m for m in METHODS if any(m in methods for methods in results.values())]


def mean_of(lines: Lines, name) -> float:
    """Mean over the seeds, NaN where none has the figure."""
    values = [line[name] for line in lines.values() if line[name] is not None]
    return float(np.mean(values)) if values else np.nan


def interval(values) -> tuple[float, float]:
    """Mean and half of its 95 % interval, or NaN."""
    if len(values) < 2:
        return (float(values[0]) if len(values) else np.nan), np.nan
    half = stats.sem(values) * stats.t.ppf(0.975, len(values) - 1)
    return float(np.mean(values)), float(half)


def paired_interval(methods, first, second, name, scale=1.0) -> tuple[float, float]:
    """Mean over the common seeds of first minus second, and half of its interval."""
    one, other = methods.get(first, {}), methods.get(second, {})
    seeds = sorted(set(one) & set(other))
    return interval([scale * (one[s][name] - other[s][name]) for s in seeds])


def percent_of_none(methods, first, second) -> tuple[float, float]:
    """The interval of a difference in loss, in percent of the loss of none."""
    if "none" not in methods:
        return np.nan, np.nan
    scale = 100 / mean_of(methods["none"], "loss")
    return paired_interval(methods, first, second, "loss", scale)


def is_real(mean, half) -> bool:
    """Whether zero is outside; never with a single seed."""
    return bool(abs(mean) > half)


def has_gap(methods) -> bool:
    """Whether the oracle is better than none by more than noise."""
    mean, half = paired_interval(methods, "none", "oracle", "loss")
    return mean > 0 and is_real(mean, half)


def gap_closed(methods, method, name="loss") -> float:
    """Share of the way from none to oracle, NaN where that is no way up."""
    if not {method, "none", "oracle"} <= set(methods):
        return np.nan
    seeds = set(methods[method]) & set(methods["none"]) & set(methods["oracle"])
    if not seeds:
        return np.nan
    none, ours, oracle = (
        np.mean([methods[m][s][name] for s in seeds])
        for m in ("none", method, "oracle")
    )
    gap = oracle - none if name == "score" else none - oracle
    return float((ours - none) / (oracle - none)) if gap > 0 else np.nan


def shares(results: Results, method) -> dict[str, float]:
    """Share of the gap closed by cell, where there is a gap and an answer."""
    found = {
        cell: gap_closed(methods, method)
        for cell, methods in damaged(results).items()
        if has_gap(methods)
    }
    return {cell: share for cell, share in found.items() if not np.isnan(share)}


def mean_share(shares) -> float:
    """Mean over cells, none of which can decide it alone."""
    if not len(shares):
        return np.nan
    return float(np.clip(list(shares), SMALLEST_SHARE, LARGEST_SHARE).mean())


def as_markdown(title, header, rows) -> str:
    lines = [f"### {title}", "", "| " + " | ".join(header) + " |"]
    lines.append("|---" * len(header) + "|")
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def number(value, form) -> str:
    return "" if np.isnan(value) else format(value, f"z{form}")


def interval_cell(mean, half, unit="") -> str:
    """Bold where zero is outside."""
    if np.isnan(mean):
        return ""
    mean_form, half_form = (".0f" if v >= 100 else ".2g" for v in (abs(mean), half))
    cell = format(mean, f"+{mean_form}") + unit
    cell += "" if np.isnan(half) else f" ± {half:{half_form}}"
    return f"**{cell}**" if is_real(mean, half) else cell


def table_by_method(title, results, cell_of, methods=None, last=()) -> str:
    """Return a table with a row per cell and a column per method."""
    columns = answered(results) if methods is None else methods
    rows = [
        [cell, *(cell_of(found, m) if m in found else "" for m in columns)]
        for cell, found in results.items()
    ]
    return as_markdown(title, ["cell", *columns], [*rows, *last])


def cell_table(results) -> str:
    header = ["cell", "rows", "spoiled", "seeds"]
    header += [f"{name} of {m}" for name in ("score", "loss") for m in ENDS]
    rows = []
    for cell, methods in results.items():
        lines = max(methods.values(), key=len)
        figures = [f"{mean_of(lines, name):.0f}" for name in ("rows", "spoiled")]
        ends = [
            number(mean_of(methods.get(method, {}), name), ".4g")
            for name in ("score", "loss")
            for method in ENDS
        ]
        rows.append([cell, *figures, str(len(lines)), *ends])
    return as_markdown("Cells", header, rows)


ENDS = ("none", "oracle")


def gap_table(results) -> str:
    """Shares in brackets where there is no gap beyond noise, which says how large."""
    results = damaged(results)
    columns = [m for m in answered(results) if m not in ENDS]
    rows = []
    for cell, methods in results.items():
        form = "{}" if has_gap(methods) else "({})"
        cells = [number(gap_closed(methods, m), ".0%") for m in columns]
        gap = interval_cell(*percent_of_none(methods, "none", "oracle"), " %")
        rows.append([cell, gap, *(form.format(c) if c else "" for c in cells)])
    means = [number(mean_share(shares(results, m).values()), ".0%") for m in columns]
    title = "Share of the gap in loss closed, and the gap in percent of none's loss"
    last = ["mean where there is a gap", "", *means]
    return as_markdown(title, ["cell", "gap", *columns], [*rows, last])


def difference_table(results) -> str:
    return table_by_method(
        "Loss: data dropout minus others, in percent of none's (negative is better)",
        results,
        lambda methods, m: interval_cell(*percent_of_none(methods, OURS, m)),
        [m for m in answered(results) if m != OURS],
    )


def dropped_cell(methods, method) -> str:
    lines = methods[method]
    cell = f"{mean_of(lines, 'dropped'):.0f}"
    rates = [mean_of(lines, name) for name in ("precision", "recall")]
    rates = "".join("" if np.isnan(rate) else f" {rate:.2f}" for rate in rates)
    return f"{cell}{rates}, {mean_of(lines, 'clean_dropped'):.1%}"


def drops_any(results, method) -> bool:
    lines = [methods.get(method, {}) for methods in results.values()]
    return any(line["dropped"] for found in lines for line in found.values())


def dropped_table(results) -> str:
    return table_by_method(
        "Dropped, precision, recall, share of the clean rows dropped",
        results,
        dropped_cell,
        [m for m in answered(results) if drops_any(results, m)],
    )


def cost_table(results) -> str:
    rows = []
    for method in answered(results):
        pairs = [
            (line, methods.get("none", {}).get(seed))
            for methods in results.values()
            for seed, line in methods.get(method, {}).items()
        ]
        trainings = np.median([line["trainings"] for line, _ in pairs])
        ratios = [line["seconds"] / none["seconds"] for line, none in pairs if none]
        median = float(np.median(ratios)) if ratios else np.nan
        rows.append([method, f"{trainings:.3g}", number(median, ".3g")])
    title = "Median cost: plain trainings, and seconds relative to none"
    return as_markdown(title, ["method", "trainings", "seconds"], rows)


def clean_cell(methods, method) -> str:
    share = mean_of(methods[method], "clean_dropped")
    loss = interval_cell(*percent_of_none(methods, method, "none"), " %")
    return f"{share:.1%}; {loss}"


def clean_table(results) -> str:
    results = undamaged(results)
    return table_by_method(
        "Clean cells: share dropped; loss relative to none's",
        results,
        clean_cell,
        [m for m in answered(results) if m not in (*ENDS, "oracle, as many steps")],
    )


def tables(results: Results) -> str:
    return "\n".join(
        [
            cell_table(results),
            gap_table(results),
            difference_table(results),
            table_by_method(
                "Score on clean test rows: accuracy, R2 or PSNR (dB)",
                results,
                lambda methods, m: f"{mean_of(methods[m], 'score'):.4g}",
            ),
            dropped_table(results),
            cost_table(results),
            clean_table(results),
            as_markdown("Summary", ["figure", "value"], summary_rows(results)),
        ]
    )


# Headlines.


def summary(results: Results) -> dict:
    """Return the figures that all cells together come to.

    Of the cells with damage, only those count in which the oracle is better than none
    by more than noise. A rival may not answer all of them, and has ours beside it on
    those that it does answer.
    """
    ours = shares(results, OURS)
    worst = min(ours, key=ours.get) if ours else None
    dropped = [
        mean_of(methods[OURS], "clean_dropped")
        for methods in undamaged(results).values()
        if OURS in methods
    ]
    return {
        "cells with a gap": len(ours),
        "mean gap closed": mean_share(ours.values()),
        "worst cell": worst,
        "its gap closed": ours.get(worst, np.nan),
        "worse than none": worse_than(results, "none"),
        "worse than cleanlab": worse_than(results, "cleanlab"),
        "clean rows dropped in clean cells": (
            float(np.mean(dropped)) if dropped else np.nan
        ),
        "rivals": {
            method: rival_summary(results, method)
            for method in answered(results)
            if method not in (OURS, *ENDS)
        },
    }


def worse_than(results: Results, rival) -> list[str]:
    """Cells where the loss of data dropout is higher by more than noise."""
    found = []
    for cell, methods in results.items():
        mean, half = paired_interval(methods, OURS, rival, "loss")
        if mean > 0 and is_real(mean, half):
            found.append(cell)
    return found


def rival_summary(results: Results, method) -> dict:
    theirs, ours = shares(results, method), shares(results, OURS)
    same = [ours[cell] for cell in theirs if cell in ours]
    return {
        "cells": len(theirs),
        "mean gap closed": mean_share(theirs.values()),
        "mean gap closed by data dropout there": mean_share(same),
    }


def summary_rows(results) -> list[list[str]]:
    rows = []
    for name, value in summary(results).items():
        if isinstance(value, dict):
            rows += [
                [f"mean gap closed by {method}", rival_cell(figures)]
                for method, figures in value.items()
            ]
        elif isinstance(value, list):
            rows.append(
                [name, f"{len(value)} cells" + "".join(f"; {v}" for v in value)]
            )
        elif isinstance(value, float):
            rows.append([name, number(value, ".1%")])
        else:
            rows.append([name, str(value)])
    return rows


def rival_cell(figures) -> str:
    theirs, ours = (
        number(figures[name], ".1%")
        for name in ("mean gap closed", "mean gap closed by data dropout there")
    )
    return f"{theirs} in {figures['cells']} cells, data dropout there {ours}"


# Figure.


def plot_reliability(results: Results, path) -> None:
    """Draw how many samples of about the same chance of harm were spoiled.

    Over all cells and seeds, with those of labels and of other targets apart.
    """
    figure_of = import_module("matplotlib.figure").Figure
    figure = figure_of(figsize=(4.5, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1)
    kinds: dict[str, list] = {"labels": [], "other targets": []}
    for methods in results.values():
        for line in methods.get(OURS, {}).values():
            is_regression = line["is_regression"]
            kinds["other targets" if is_regression else "labels"].append(
                line["reliability"]
            )
    for (label, tables), marker in zip(kinds.items(), "os", strict=True):
        if not tables:
            continue
        n, n_spoiled, total = np.sum(tables, axis=0).T
        filled = n > 0
        n, n_spoiled, total = n[filled], n_spoiled[filled], total[filled]
        share = n_spoiled / n
        error = np.sqrt(share * (1 - share) / n)
        axes.errorbar(total / n, share, error, marker=marker, label=label, capsize=2)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_aspect("equal")
    axes.set_xlabel("chance of harm, mean")
    axes.set_ylabel("share that was spoiled")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def plot(results: Results, path) -> None:
    """Draw the shares of the gap closed: ours, cleanlab's, and the best rival's.

    One row per cell with a gap, the best for data dropout on top. Dots that would lie
    outside are drawn on the edge, as arrows. The best rival is chosen with hindsight.
    """
    figure_of = import_module("matplotlib.figure").Figure
    ours = shares(results, OURS)
    cells = sorted(ours, key=ours.get)
    candidates = {
        method: shares(results, method)
        for method in answered(results)
        if method in RIVALS and method != "none" and not method.startswith(OURS)
    }
    best = {
        c: max((s[c] for s in candidates.values() if c in s), default=np.nan)
        for c in cells
    }
    series = {
        "best rival in hindsight": (best, "D", "none", "0.45"),
        "cleanlab": (candidates.get("cleanlab", {}), "s", "tab:orange", "tab:orange"),
        MENDING: (shares(results, MENDING), "o", "none", "tab:blue"),
        OURS: (ours, "o", "tab:blue", "tab:blue"),
    }
    figure = figure_of(figsize=(8, 1.4 + 0.27 * len(cells)), layout="constrained")
    axes = figure.subplots()
    for position in (0, 1):
        axes.axvline(position, color="0.6", linewidth=1, zorder=0)
    for label, (values, marker, face, edge) in series.items():
        style = {"facecolors": face, "edgecolors": edge, "s": 36, "clip_on": False}
        rows = [row for row, cell in enumerate(cells) if cell in values]
        drawn = np.array([values[cells[row]] for row in rows])
        x = drawn.clip(SMALLEST_SHARE, LARGEST_SHARE)
        inside = x == drawn
        rows = np.array(rows)
        axes.scatter(x[inside], rows[inside], marker=marker, label=label, **style)
        for outside, arrow in ((drawn < x, "<"), (drawn > x, ">")):
            axes.scatter(x[outside], rows[outside], marker=arrow, **style)
    axes.set_yticks(range(len(cells)), cells)
    axes.set_ylim(-0.7, len(cells) - 0.3)
    axes.set_xlim(SMALLEST_SHARE, LARGEST_SHARE)
    axes.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.set_xlabel("gap in loss closed, from all samples to the oracle")
    axes.grid(axis="y", color="0.92")
    axes.set_axisbelow(True)
    figure.legend(loc="outside upper center", ncols=4, frameon=False)
    figure.savefig(path, dpi=150)


def main(arguments=None):
    arguments = parse_arguments(arguments)
    torch.set_num_threads(1)
    chosen = arguments.names or GROUPS[arguments.group]
    cells = [name for name in chosen if re.search(arguments.cells, name)]
    methods = [name for name in METHODS if re.search(arguments.methods, name)]
    if not arguments.table:
        for number in range(arguments.seeds):
            for cell in cells:
                first = arguments.first_seed
                if first is None:
                    first = FIRST_REPORTING_SEED if cell in REPORTING else 0
                run_seed(cell, first + number, methods, arguments)
    results = read_results(arguments.results)
    if results:
        print(f"\n{tables(results)}")


if __name__ == "__main__":
    main()
