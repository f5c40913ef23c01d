"""Many nets, many ways to be wrong, many methods: how good is the net at the end?

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
Figures and the tables of the docs are made by ``report.py``.
Libraries that are not installed are left out with a message;
``pip install sk_datadrop[bench]`` brings them.
"""

import argparse
import json
import re
import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
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
    """Result of a method that has its nets already."""
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
    """Return the trainings and seconds that choosing the samples took."""
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
FIRST_COLUMNS = (
    OURS,
    "cleanlab",
    "oracle",
    "none",
    "data dropout, mend",
    "data dropout, weigh",
    "data dropout, fewer steps",
    "oracle, as many steps",
)
COLUMNS = [*FIRST_COLUMNS, *(m for m in METHODS if m not in FIRST_COLUMNS)]
"""Methods in the order of the tables."""


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
    """Return the choice of a method, and how good the net trained on it is."""
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
    """Methods that have a line anywhere, in the order of the tables."""
    return [m for m in COLUMNS if any(m in methods for methods in results.values())]


def by_target(results: Results) -> dict[str, Results]:
    """Results on class labels and on other targets, which other methods answer."""
    halves: dict[str, Results] = {"Class labels": {}, "Numbers and images": {}}
    for cell, methods in results.items():
        lines = [line for lines in methods.values() for line in lines.values()]
        is_regression = any(line.get("is_regression") for line in lines)
        halves[list(halves)[is_regression]][cell] = methods
    return {title: half for title, half in halves.items() if half}


def mean_of(lines: Lines, name) -> float:
    """Mean over the seeds, NaN where none has the figure."""
    values = [line[name] for line in lines.values() if line[name] is not None]
    return float(np.mean(values)) if values else np.nan


def interval(values) -> tuple[float, float]:
    """Mean and half of its 95 % interval, or NaN."""
    if len(values) < 2:
        return (float(values[0]) if len(values) else np.nan), np.nan
    half = t_quantile(len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return float(np.mean(values)), float(half)


@cache
def t_quantile(n_degrees) -> float:
    return float(stats.t.ppf(0.975, n_degrees))


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
    """Tell whether zero is outside the interval; never with a single seed."""
    return bool(abs(mean) > half)


def has_gap(methods) -> bool:
    """Tell whether the oracle is better than none by more than noise."""
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


def as_markdown(header, rows) -> str:
    """Return a table; a cell without an entry has a dash."""
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    lines += ["| " + " | ".join(cell or "-" for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def number(value, form) -> str:
    """Return the number in the given form, a percentage with a space; NaN is empty."""
    text = "" if np.isnan(value) else format(value, f"z{form}")
    return text.replace("%", " %")


def two_digits(value, sign="") -> str:
    """Return two significant digits, or a whole number, never an exponent."""
    form = ".2g" if abs(value) < 9.95 else ".0f"
    return format(value, f"{sign}z{form}")


def interval_cell(mean, half, unit="") -> str:
    """Bold where zero is outside."""
    if np.isnan(mean):
        return ""
    cell = two_digits(mean, "+") + unit
    cell += "" if np.isnan(half) else f" ± {two_digits(half)}"
    return f"**{cell}**" if is_real(mean, half) else cell


def table_by_method(results, cell_of, methods) -> str:
    """Return a table with a row per cell and a column per method."""
    rows = [
        [cell, *(cell_of(found, m) if m in found else "" for m in methods)]
        for cell, found in results.items()
    ]
    return as_markdown(["cell", *methods], rows)


ENDS = ("none", "oracle")


def share_cell(share) -> str:
    """Return a percentage; what is far outside is only said to be there."""
    if share < -2:
        return "< -200 %"
    return "> 300 %" if share > 3 else number(share, ".0%")


def gap_table(results) -> str:
    """Shares in brackets where there is no gap beyond noise."""
    results = damaged(results)
    columns = [m for m in answered(results) if m not in ENDS]
    rows = []
    for cell, methods in results.items():
        form = "{}" if has_gap(methods) else "({})"
        cells = [share_cell(gap_closed(methods, m)) for m in columns]
        lines = max(methods.values(), key=len)
        counts = [f"{mean_of(lines, name):.0f}" for name in ("rows", "spoiled")]
        gap = interval_cell(*percent_of_none(methods, "none", "oracle"), " %")
        cells = [form.format(c) if c else "" for c in cells]
        rows.append([cell, gap, *cells, *counts, str(len(lines))])
    means = [number(mean_share(shares(results, m).values()), ".0%") for m in columns]
    header = ["cell", "gap", *columns, "samples", "wrong", "seeds"]
    return as_markdown(
        header, [*rows, ["mean where there is a gap", "", *means, "", "", ""]]
    )


def difference_table(results) -> str:
    return table_by_method(
        results,
        lambda methods, m: interval_cell(*percent_of_none(methods, OURS, m)),
        [m for m in answered(results) if m != OURS],
    )


def score_table(results) -> str:
    return table_by_method(
        results,
        lambda methods, m: f"{mean_of(methods[m], 'score'):.4g}",
        answered(results),
    )


def dropped_cell(methods, method) -> str:
    lines = methods[method]
    cell = f"{mean_of(lines, 'dropped'):.0f}"
    rates = [mean_of(lines, name) for name in ("precision", "recall")]
    rates = "".join("" if np.isnan(rate) else f" {rate:.2f}" for rate in rates)
    clean = number(mean_of(lines, "clean_dropped"), ".1%")
    return f"{cell}{rates}, {clean}"


CHOOSERS = ("data dropout", "cleanlab", "AUM", "highest loss", "random", "literal rule")
"""Methods that choose samples to drop, each in its own way, without the truth."""


def dropped_table(results) -> str:
    methods = [m for m in answered(results) if m in CHOOSERS]
    return table_by_method(damaged(results), dropped_cell, methods)


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
    return as_markdown(["method", "trainings", "seconds relative to none"], rows)


def clean_cell(methods, method) -> str:
    share = number(mean_of(methods[method], "clean_dropped"), ".1%")
    loss = interval_cell(*percent_of_none(methods, method, "none"), " %")
    return f"{share}; {loss}"


def clean_table(results) -> str:
    results = undamaged(results)
    left_out = (*ENDS, "oracle, as many steps")
    columns = [m for m in answered(results) if m not in left_out]
    return table_by_method(results, clean_cell, columns)


def summary_table(results) -> str:
    """Return a row per method, on the cells that it answers."""
    found = summary(results)["rivals"]
    rows = []
    for method, figures in found.items():
        theirs, ours = (
            number(figures[name], ".0%")
            for name in ("mean gap closed", "mean gap closed by data dropout there")
        )
        better, worse = (figures[name] for name in ("better cells", "worse cells"))
        n_level = figures["cells with an interval"] - len(better) - len(worse)
        counts = [len(better), n_level, len(worse)]
        counts = (
            [str(n) for n in counts] if figures["cells with an interval"] else 3 * [""]
        )
        rows.append([method, str(figures["cells"]), theirs, ours, *counts])
    header = ["method", "cells with a gap", "gap closed", "data dropout there"]
    header += ["cells where data dropout is better", "level", "worse"]
    return as_markdown(header, rows)


BY_TARGET = {
    "gap": ("Share of the gap in loss closed, and the gap in % of none's", gap_table),
    "difference": (
        "Loss: data dropout minus others, in % of none's (negative is better)",
        difference_table,
    ),
    "score": ("Score on clean test samples: accuracy, R2 or PSNR in dB", score_table),
    "dropped": (
        "Dropped, precision, recall, share of the right samples dropped",
        dropped_table,
    ),
    "clean": ("Clean cells: share dropped; loss relative to none's", clean_table),
}


def tables(results: Results) -> dict[str, tuple[str, str]]:
    """Return the title and the text of each table by its name."""
    found = {"summary": ("Summary", summary_table(results))}
    for name, (title, make) in BY_TARGET.items():
        halves = [
            f"**{target}**\n\n{make(half)}"
            for target, half in by_target(results).items()
        ]
        found[name] = title, "\n".join(halves)
    title = "Median cost: plain trainings, and seconds relative to none"
    return found | {"cost": (title, cost_table(results))}


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
        "worse than none": unlike(results, "none")[1],
        "worse than cleanlab": unlike(results, "cleanlab")[1],
        "samples dropped in clean cells": (
            float(np.mean(dropped)) if dropped else np.nan
        ),
        "rivals": {
            method: rival_summary(results, method)
            for method in answered(results)
            if method not in (OURS, *ENDS)
        },
    }


def unlike(results: Results, rival) -> tuple[list[str], list[str]]:
    """Cells where the loss of data dropout is lower, or higher, by more than noise."""
    better, worse = [], []
    for cell, methods in results.items():
        mean, half = paired_interval(methods, OURS, rival, "loss")
        if is_real(mean, half):
            (worse if mean > 0 else better).append(cell)
    return better, worse


def rival_summary(results: Results, method) -> dict:
    theirs, ours = shares(results, method), shares(results, OURS)
    same = [ours[cell] for cell in theirs if cell in ours]
    better, worse = unlike(results, method)
    return {
        "cells": len(theirs),
        "mean gap closed": mean_share(theirs.values()),
        "mean gap closed by data dropout there": mean_share(same),
        "cells with an interval": sum(
            not np.isnan(paired_interval(methods, OURS, method, "loss")[1])
            for methods in results.values()
        ),
        "better cells": better,
        "worse cells": worse,
    }


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
        for title, table in tables(results).values():
            print(f"\n### {title}\n\n{table}")


if __name__ == "__main__":
    main()
