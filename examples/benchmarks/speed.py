"""How long does it take, and how much memory, to score every training sample?

The question is always the same: one number per training sample for the mean held-out
objective. Parts, any of which can be named on the command line:

peers
    Ours beside kronfluence, captum, dattri and plain gradients by vmap, for a small
    CNN, the ResNet-18 of torchvision on 32 x 32 images, and a DnCNN. With the share
    of the time that round 1's training takes.
passes
    Our scoring pass over the training samples alone, as a multiple of a forward pass
    over the same samples in the same batches.
rows
    Ours, and gradients by vmap, for more and more samples.
parameters
    The same for wider and wider nets.

Every measurement is made in a fork of this process, so that all share one net and
one set of samples, and one that runs out of time or memory takes nothing with it.
Repetitions are interleaved: method after method, then all again; the table has
medians. Memory is the rise of the fork's resident set while it works, from the
high-water mark that Linux keeps (/proc/self/status); elsewhere it is left empty.
Imports and the first call of each library are paid before, on a tiny net. Results
are saved after each method; a run that was killed goes on with the next one. With
``OMP_NUM_THREADS=1`` the figures are those of one core.
"""

import argparse
import ctypes
import gc
import multiprocessing
import re
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import _peers
import numpy as np
import torch
from fidelity import (
    cut_patches,
    data,
    mnist,
    print_table,
    read_results,
    save_results,
)
from skorch import NeuralNet
from torch import nn

from sk_datadrop import InfluenceFunctions, influence_scores
from sk_datadrop._functional import FunctionalNet
from sk_datadrop._influence import sample_scores
from sk_datadrop._samples import Samples
from sk_datadrop._training import Recipe, train
from sk_datadrop.nets import DnCNN, SmallCNN

PARTS = ("peers", "passes", "rows", "parameters")


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="|".join(PARTS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=float, default=900, help="seconds for one call")
    parser.add_argument("--memory", type=float, default=10, help="GB for one call")
    parser.add_argument("--nets", default="", help="only names this pattern is in")
    parser.add_argument("--methods", default="", help="only names this pattern is in")
    parser.add_argument("--no-peers", action="store_true", help="leave rivals out")
    parser.add_argument("--quick", action="store_true", help="tiny, to see it run")
    parser.add_argument("--again", action="store_true", help="measure what is known")
    parser.add_argument("--output", type=Path, default=Path("speed.json"))
    parsed = parser.parse_args(arguments)
    if unknown := set(parsed.parts) - set(PARTS):
        parser.error(f"parts are {', '.join(PARTS)}; got {unknown}")
    parsed.parts = parsed.parts or list(PARTS)
    if parsed.quick:
        parsed.repeats = 1
    return parsed


# Nets and samples.


@dataclass(frozen=True)
class Case:
    """A net that was trained, its samples, and how long a training takes."""

    name: str
    net: NeuralNet
    question: _peers.Question
    training_seconds: float

    @property
    def n_parameters(self):
        return sum(p.numel() for p in self.question.module.parameters())

    @property
    def size(self):
        n_train, n_held_out = (
            len(rows[1]) for rows in (self.question.train, self.question.held_out)
        )
        return (
            f"{self.n_parameters:,} parameters, {n_train:,} + {n_held_out:,} rows, "
            f"training {self.training_seconds:.1f} s"
        )


def make_case(name, module, train_rows, held_out, *, epochs, usual_epochs, **options):
    """Train for a few epochs; the time of a usual training goes by the number."""
    is_classifier = not train_rows[1].is_floating_point()
    net = NeuralNet(
        module,
        criterion=nn.CrossEntropyLoss if is_classifier else nn.MSELoss,
        optimizer=torch.optim.Adam,
        lr=0.001,
        batch_size=128,
        max_epochs=epochs,
        train_split=None,
        iterator_train__shuffle=True,
        **options,
    )
    start = time.perf_counter()
    # Round 1 watches the held-out samples, so its time includes them.
    net = train(
        net, Samples(*train_rows), Recipe(name, seed=0), validation=Samples(*held_out)
    )
    seconds = time.perf_counter() - start
    row_losses = _peers.make_row_losses(is_classifier)
    scale = 1.0
    if not is_classifier:
        scale = 2 * float(row_losses(net.forward(held_out[0]), held_out[1]).median())
    question = _peers.Question(
        net.module_.eval(),
        train_rows,
        held_out,
        row_losses,
        _peers.make_row_objectives("bounded", row_losses, scale),
        is_classifier,
        batch_size=_peers.rows_that_fit(net.module_, at_most=128),
    )
    result = influence_scores(net, *train_rows, *held_out, random_state=0)
    question = replace(question, damping=result.solver_results[0].shift)
    return Case(name, net, question, seconds * usual_epochs / epochs)


def digits(n_train, n_held_out):
    """MNIST, over and over where more samples are asked for than there are."""
    X, y = mnist()
    order = np.random.default_rng(0).permutation(len(X))
    rows = np.resize(order, n_train + n_held_out)
    X, y = torch.as_tensor(X[rows]), torch.as_tensor(y[rows])
    return (X[n_held_out:], y[n_held_out:]), (X[:n_held_out], y[:n_held_out])


def small_cnn(n_train, n_held_out, quick, width=16):
    return make_case(
        f"SmallCNN, width {width}",
        SmallCNN,
        *digits(n_train, n_held_out),
        epochs=1 if quick else 3,
        usual_epochs=15,
        module__channels=(width, 2 * width),
        module__n_hidden=4 * width,
    )


def resnet18(quick):
    """Random images of ten brightnesses, which a net learns easily."""
    import torchvision

    n_train, n_held_out = (32, 16) if quick else (512, 128)
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(n_train + n_held_out, 3, 32, 32, generator=generator)
    y = torch.randint(10, (len(X),), generator=generator)
    X += (y / 10)[:, None, None, None]
    return make_case(
        "ResNet-18",
        torchvision.models.resnet18,
        (X[n_held_out:], y[n_held_out:]),
        (X[:n_held_out], y[:n_held_out]),
        epochs=1 if quick else 3,
        usual_epochs=15,
        module__num_classes=10,
    )


def denoiser(quick):
    n_train, n_held_out = (40, 20) if quick else (1000, 250)
    rng = np.random.default_rng(0)
    photographs = [data.astronaut(), data.coffee(), data.chelsea()]
    y = torch.as_tensor(cut_patches(photographs, n_train + n_held_out, 24, rng))
    noise = rng.standard_normal(y.shape, dtype=np.float32)
    X = y + 25 / 255 * torch.as_tensor(noise)
    return make_case(
        "DnCNN",
        DnCNN,
        (X[n_held_out:], y[n_held_out:]),
        (X[:n_held_out], y[:n_held_out]),
        epochs=1 if quick else 3,
        usual_epochs=25,
        module__width=16,
    )


def cases(quick) -> dict[str, Callable[[], Case]]:
    sizes = (100, 50) if quick else (2000, 500)
    return {
        "SmallCNN": partial(small_cnn, *sizes, quick),
        "DnCNN": partial(denoiser, quick),
        "ResNet-18": partial(resnet18, quick),
    }


# Methods: case -> scores.


def ours(case, autocast=None):
    rows = (*case.question.train, *case.question.held_out)
    engine = InfluenceFunctions(autocast=autocast)
    return influence_scores(case.net, *rows, engine=engine, random_state=0).influence


def scoring_pass(case, autocast=None):
    """Each sample's loss differentiated along one direction, as influence needs it."""
    net = FunctionalNet(case.net)
    direction = torch.randn_like(net.theta)[:, None]
    train_samples = Samples(*case.question.train)
    return sample_scores(net, train_samples, direction, autocast=autocast)[0]


def forward_pass(case):
    """The sample losses themselves, by the same functions."""
    net = FunctionalNet(case.net)
    with torch.no_grad():
        return torch.cat(
            [
                net.losses(net.outputs(net.theta, X), y)
                for X, y in net.batches(Samples(*case.question.train))
            ]
        )


def ask(function):
    """Turn a method of `_peers` into one of a case."""
    return lambda case: function(case.question)


OURS = {"ours": ours, "ours, bfloat16": partial(ours, autocast="bfloat16")}
PLAIN = {"gradients by vmap": ask(_peers.gradient_dots)}
PEERS = {
    "kronfluence EK-FAC": ask(_peers.kronfluence_ekfac),
    "captum TracInCP": ask(_peers.captum_tracin),
    "captum TracInCPFast": ask(_peers.captum_tracin_fast),
    "dattri CG": ask(_peers.dattri_conjugate_gradient),
}
PASSES = {
    "scoring pass": scoring_pass,
    "scoring pass, bfloat16": partial(scoring_pass, autocast="bfloat16"),
    "forward pass": forward_pass,
}


# Measurements.


@dataclass(frozen=True)
class Budget:
    """Limits of one call."""

    seconds: float
    gigabytes: float


def measure(method, case, budget: Budget) -> dict:
    """Seconds and bytes of one call in a fork, or a note that says why not."""
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    child = fork.Process(target=_work, args=(method, case, budget, sender))
    child.start()
    sender.close()
    try:
        if not receiver.poll(budget.seconds):
            return {"note": _too_long(budget.seconds)}
        return receiver.recv()
    except EOFError:
        return {"note": "died; out of memory?"}
    finally:
        child.kill()
        child.join()


def _work(method, case, budget, sender):
    extra = int(budget.gigabytes * 1e9)
    resource.setrlimit(resource.RLIMIT_DATA, (_private_bytes() + extra,) * 2)
    before = _reset_high_water_mark()
    start = time.perf_counter()
    scores, note = _peers.answer(method, case)
    seconds = time.perf_counter() - start
    after = _status("VmHWM")
    if scores is None:
        sender.send({"note": _shortened(note)})
        return
    peak = None if after is None else after - before
    sender.send({"note": "", "seconds": seconds, "bytes": peak})


def _shortened(note):
    is_memory = "memory" in note.lower() or "MemoryError" in note
    return "out of memory" if note.startswith("failed") and is_memory else note


def _reset_high_water_mark() -> int | None:
    """Reset the high-water mark, and return the size of the resident set."""
    # Garbage, and freed memory that the process still holds, would hide the memory
    # that a method uses.
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")
    return _status("VmRSS")


def _private_bytes() -> int:
    return _status("VmData") or 0


def _status(name) -> int | None:
    """A size from /proc/self/status, in bytes; None where there is no such file."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    found = re.search(rf"{name}:\s+(\d+) kB", status.read_text())
    return int(found[1]) * 1024 if found else None


def measure_all(methods, case, arguments) -> dict[str, dict]:
    """Medians over interleaved repetitions; a method that failed is not repeated."""
    budget = Budget(arguments.limit, arguments.memory)
    calls: dict[str, list[dict]] = {name: [] for name in methods}
    for _ in range(arguments.repeats):
        for name, method in methods.items():
            if calls[name] and calls[name][-1]["note"]:
                continue
            if name in PEERS and arguments.no_peers:
                calls[name].append({"note": "left out"})
                continue
            calls[name].append(measure(method, case, budget))
            print(f"  {case.name}: {name}: {calls[name][-1]}", flush=True)
    return {name: summarise(outcomes) for name, outcomes in calls.items()}


def summarise(calls) -> dict:
    if calls[-1]["note"]:
        return calls[-1]
    sizes = [call["bytes"] for call in calls if call["bytes"] is not None]
    return {
        "note": "",
        "seconds": float(np.median([call["seconds"] for call in calls])),
        "all seconds": [call["seconds"] for call in calls],
        "bytes": max(sizes) if sizes else None,
    }


def warm_up(methods):
    """The first call of each library, with its imports, on a tiny net."""
    rows = torch.rand(32, 1, 12, 12), torch.arange(32) % 10
    options = {"epochs": 1, "usual_epochs": 1, "module__channels": (2,)}
    case = make_case("warm-up", SmallCNN, rows, rows, **options)
    for method in methods.values():
        _peers.answer(method, case)


# Parts.


def run_peers(arguments):
    methods = {**OURS, **PLAIN, **PEERS}
    for name, make in cases(arguments.quick).items():
        if re.search(arguments.nets, name):
            run_case(f"peers: {name}", make, methods, arguments)


def run_passes(arguments):
    for name, make in cases(arguments.quick).items():
        if re.search(arguments.nets, name):
            result = run_case(f"passes: {name}", make, PASSES, arguments)
            if not all(line["note"] == "" for line in result["lines"].values()):
                continue
            seconds = {k: line["seconds"] for k, line in result["lines"].items()}
            for name in ("scoring pass", "scoring pass, bfloat16"):
                ratio = seconds[name] / seconds["forward pass"]
                print(f"{name} / forward pass: {ratio:.2f}")


def run_rows(arguments):
    counts = (100, 200) if arguments.quick else 1000 * 2 ** np.arange(6)
    results = {}
    for n_rows in map(int, counts):
        make = partial(small_cnn, n_rows, 50 if arguments.quick else 500, True)
        title = f"rows: {n_rows}"
        results[title] = run_case(title, make, {**OURS, **PLAIN}, arguments)
    print_growth(results)


def run_parameters(arguments):
    sizes = (100, 50) if arguments.quick else (1000, 500)
    results = {}
    for width in (4, 8) if arguments.quick else (4, 8, 16, 32, 64):
        make = partial(small_cnn, *sizes, True, width)
        title = f"parameters: width {width}"
        results[title] = run_case(title, make, {**OURS, **PLAIN}, arguments)
    print_growth(results)


def print_growth(results):
    """Seconds and megabytes of each method side by side, a line per size."""
    table = [
        [f"{title} ({result['n_parameters']:,} parameters)"]
        + [cell for line in result["lines"].values() for cell in cells(line)]
        for title, result in results.items()
    ]
    names = [name for result in results.values() for name in result["lines"]]
    header = [word for name in dict.fromkeys(names) for word in (f"{name}, s", "MB")]
    print_table("growth", header, table)


def cells(line) -> list[str]:
    if line["note"]:
        return [line["note"], ""]
    size = "" if line["bytes"] is None else f"{line['bytes'] / 1e6:.0f}"
    return [f"{line['seconds']:.2f}", size]


def run_case(title, make, methods, arguments) -> dict:
    """Measure the methods on a case, except those whose results are known."""
    title += " (quick)" * arguments.quick
    known = read_results(arguments.output).get(title, {"lines": {}})
    wanted = {
        name: method
        for name, method in methods.items()
        if re.search(arguments.methods, name)
        and not is_known(known["lines"].get(name), arguments)
    }
    if not wanted:
        print(f"{title}: known already")
        return known
    try:
        case = make()
    except ImportError as error:
        print(f"{title}: not installed ({error.name})")
        return {"lines": {name: {"note": "net not installed"} for name in wanted}}
    lines = {**known["lines"], **measure_all(wanted, case, arguments)}
    result = {
        "environment": _peers.environment(),
        "size": case.size,
        "n_parameters": case.n_parameters,
        "training seconds": case.training_seconds,
        "lines": {name: lines[name] for name in methods if name in lines},
    }
    print_case(title, result)
    save_results(arguments.output, {title: result})
    return result


def is_known(line, arguments) -> bool:
    """Return whether a result has enough calls, or says why there are none."""
    if line is None or arguments.again:
        return False
    if line["note"]:
        return line["note"].startswith(("needs", "out of", _too_long(arguments.limit)))
    return len(line["all seconds"]) >= arguments.repeats


def _too_long(seconds) -> str:
    return f"more than {seconds:.0f} s"


def print_case(title, result):
    table = []
    for name, line in result["lines"].items():
        if line["note"]:
            table.append([name, line["note"]])
            continue
        share = line["seconds"] / result["training seconds"]
        seconds, size = cells(line)
        table.append([name, seconds, f"{share:.0%}", size])
    header = ["seconds", "of round 1", "peak MB"]
    print_table(f"{title}: {result['size']}", header, table)


def main(arguments=None):
    arguments = parse_arguments(arguments)
    methods = {**OURS, **PLAIN, **({} if arguments.no_peers else PEERS), **PASSES}
    warm_up(methods)
    runs = {
        "peers": run_peers,
        "passes": run_passes,
        "rows": run_rows,
        "parameters": run_parameters,
    }
    for part in arguments.parts:
        runs[part](arguments)


if __name__ == "__main__":
    main()
