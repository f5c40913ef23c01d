"""How long does it take, and how much memory, to score every training sample?

The question is always the same: one number per training sample for the mean held-out
objective. Parts, any of which can be named on the command line:

nets
    A small CNN, a DnCNN, the ResNet-18 of torchvision on 32 x 32 images, an LSTM and
    attention over the lines of a picture. Ours in full and in half precision, beside
    kronfluence, captum, dattri and plain gradients by vmap. Besides: a forward pass
    over the training samples, our scoring pass over them alone, and a few epochs of a
    training of round 1, from which the time of one of the usual length follows.
rows
    Ours, gradients by vmap, and kronfluence, for 1,000 to 60,000 samples of the small
    CNN, which is trained on the first 2,000 of them.

Every measurement is made in a fork of this process, so that all share one net and
one set of samples, and one that runs out of time or memory takes nothing with it.
Repetitions are interleaved: method after method, then all again; one that takes longer
than 20 s is measured once. Memory is the rise of the fork's resident set while it
works, from the high-water mark that Linux keeps (/proc/self/status); elsewhere it is
left empty. Imports and the first call of each library are paid before, on a tiny net.
All seconds are saved, each as soon as it is measured; a run that was killed goes on
with the next one. With ``OMP_NUM_THREADS=1`` the figures are those of one core.
"""

import argparse
import ctypes
import gc
import multiprocessing
import re
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import _peers
import numpy as np
import torch
from _nets import LSTM, Encoder
from fidelity import (
    cut_patches,
    data,
    mnist,
    parse_parts,
    read_results,
    save_results,
)
from gauntlet import as_markdown
from skorch import NeuralNet
from torch import nn

from sk_datadrop import InfluenceFunctions, influence_scores
from sk_datadrop._functional import FunctionalNet
from sk_datadrop._influence import sample_scores
from sk_datadrop._samples import Samples
from sk_datadrop._training import Recipe, train
from sk_datadrop.nets import DnCNN, SmallCNN

PARTS = ("nets", "rows")
RESULTS = Path(__file__).with_name("results") / "speed.json"
COUNTS = (1_000, 4_000, 16_000, 60_000)
"""Numbers of training samples of the part "rows"."""
MOST_ROWS_OF_PEERS = 4_000
SLOW = 20
"""Seconds of a call that is not repeated."""


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=float, default=120, help="seconds for one call")
    parser.add_argument("--memory", type=float, default=10, help="GB for one call")
    parser.add_argument("--nets", default="", help="only names this pattern is in")
    parser.add_argument("--methods", default="", help="only names this pattern is in")
    parser.add_argument("--no-peers", action="store_true", help="leave rivals out")
    parser.add_argument("--quick", action="store_true", help="tiny, to see it run")
    parser.add_argument("--again", action="store_true", help="measure what is known")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    parser.add_argument("--output", type=Path, default=Path("speed.json"))
    parsed = parse_parts(parser, PARTS, arguments)
    if parsed.quick:
        parsed.repeats = 1
    return parsed


# Nets and samples.


@dataclass(frozen=True)
class Case:
    """A net that was trained for a few epochs, its samples, and the usual number."""

    net: NeuralNet
    question: _peers.Question
    usual_epochs: int

    @property
    def facts(self) -> dict:
        """Facts that the results hold besides the measurements."""
        return {
            "parameters": sum(p.numel() for p in self.question.module.parameters()),
            "samples": len(self.question.train[1]),
            "held out": len(self.question.held_out[1]),
            "epochs": self.net.max_epochs,
            "usual epochs": self.usual_epochs,
        }


def make_case(
    module, train_rows, held_out, *, epochs, usual_epochs, n_trained=None, **options
):
    """Train for a few epochs on all samples, or the first of them."""
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
    first = tuple(values[:n_trained] for values in train_rows)
    net = train(net, Samples(*first), Recipe("training", seed=0))
    row_losses = _peers.make_row_losses(is_classifier)
    scale = 1.0
    if not is_classifier:
        scale = 2 * float(row_losses(net.forward(held_out[0]), held_out[1]).median())
    # dattri asks for the damping that ours arrives at.
    result = influence_scores(net, *first, *held_out, random_state=0)
    question = _peers.Question(
        net.module_.eval(),
        train_rows,
        held_out,
        row_losses,
        _peers.make_row_objectives("bounded", row_losses, scale),
        is_classifier,
        damping=result.solver_results[0].shift,
        batch_size=_peers.rows_that_fit(net.module_, at_most=128),
    )
    return Case(net, question, usual_epochs)


def cut(X, y, n_held_out):
    """Training and held-out samples."""
    return (X[n_held_out:], y[n_held_out:]), (X[:n_held_out], y[:n_held_out])


def digits(n_train, n_held_out):
    """MNIST, over and over where more samples are asked for than there are."""
    X, y = mnist()
    order = np.random.default_rng(0).permutation(len(X))
    rows = np.resize(order, n_train + n_held_out)
    return cut(torch.as_tensor(X[rows]), torch.as_tensor(y[rows]), n_held_out)


def of_digits(quick, module, *, n_train=2000, **options):
    """A net for digits of 28 x 28 pixels."""
    n_train, n_held_out = (100, 50) if quick else (n_train, 500)
    epochs = {"epochs": 1 if quick else 3, "usual_epochs": 15}
    return make_case(module, *digits(n_train, n_held_out), **epochs, **options)


small_cnn = partial(
    of_digits, module=SmallCNN, module__channels=(16, 32), module__n_hidden=64
)


def resnet18(quick):
    """Random images of ten brightnesses, which a net learns easily."""
    import torchvision

    n_train, n_held_out = (32, 16) if quick else (256, 64)
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(n_train + n_held_out, 3, 32, 32, generator=generator)
    y = torch.randint(10, (len(X),), generator=generator)
    X += (y / 10)[:, None, None, None]
    return make_case(
        torchvision.models.resnet18,
        *cut(X, y, n_held_out),
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
        DnCNN,
        *cut(X, y, n_held_out),
        epochs=1 if quick else 3,
        usual_epochs=25,
        module__width=16,
    )


OF_LINES = {"module__n_inputs": 28, "module__width": 64}

CASES: dict[str, Callable[[bool], Case]] = {
    "SmallCNN": small_cnn,
    "DnCNN": denoiser,
    "ResNet-18": resnet18,
    "LSTM": partial(of_digits, module=LSTM, **OF_LINES),
    "attention": partial(of_digits, module=Encoder, module__n_layers=2, **OF_LINES),
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


def training(case):
    """The few epochs of the case; round 1 watches the held-out samples besides."""
    samples, held_out = Samples(*case.question.train), Samples(*case.question.held_out)
    return train(case.net, samples, Recipe("training", seed=0), validation=held_out)


def ask(function):
    """Turn a method of `_peers` into one of a case."""
    return lambda case: function(case.question)


OURS = {
    "sk_datadrop": ours,
    "sk_datadrop, bfloat16": partial(ours, autocast="bfloat16"),
}
PLAIN = {"gradients by vmap": ask(_peers.gradient_dots)}
KRONFLUENCE = {"kronfluence EK-FAC": ask(_peers.kronfluence_ekfac)}
PEERS = KRONFLUENCE | {
    "captum TracInCP": ask(_peers.captum_tracin),
    "captum TracInCPFast": ask(_peers.captum_tracin_fast),
    "dattri CG": ask(_peers.dattri_conjugate_gradient),
}
PASSES = {
    "forward pass": forward_pass,
    "scoring pass": scoring_pass,
    "scoring pass, bfloat16": partial(scoring_pass, autocast="bfloat16"),
    "training": training,
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


def measure_case(title, make, methods, arguments) -> None:
    """Measure the methods in turn, as often as wanted, except what is known."""
    title += " (quick)" * arguments.quick
    known = read_results(arguments.output).get(title, {"lines": {}})
    lines = {} if arguments.again else known["lines"]
    methods = {m: f for m, f in methods.items() if re.search(arguments.methods, m)}
    if all(is_known(lines.get(name), arguments) for name in methods):
        print(f"{title}: known already", flush=True)
        return
    try:
        case = make(arguments.quick)
    except ImportError as error:
        print(f"{title}: not installed ({error.name})", flush=True)
        return
    facts = {"environment": _peers.environment(), **case.facts}
    budget = Budget(arguments.limit, arguments.memory)
    tried = set()
    for _ in range(arguments.repeats):
        for name, method in methods.items():
            line = lines.get(name)
            if is_known(line, arguments) or (name in tried and line["note"]):
                continue
            tried.add(name)
            if name in PEERS and arguments.no_peers:
                found = {"note": "left out"}
            else:
                found = measure(method, case, budget)
            lines[name] = with_call(line, found)
            print(f"  {title}: {name}: {found}", flush=True)
            save_results(arguments.output, {title: {**facts, "lines": lines}})


def with_call(line, found) -> dict:
    """Add the outcome of a call to a line of results; a note takes its place."""
    if found["note"]:
        return {"note": found["note"]}
    calls = line if line and not line["note"] else {"seconds": [], "bytes": []}
    both = {name: [*calls[name], found[name]] for name in ("seconds", "bytes")}
    return {"note": "", **both}


def is_known(line, arguments) -> bool:
    """Return whether a result has enough calls, or says why there are none."""
    if line is None:
        return False
    if line["note"]:
        return line["note"].startswith(("needs", "out of", _too_long(arguments.limit)))
    is_slow = max(line["seconds"]) > SLOW
    return is_slow or len(line["seconds"]) >= arguments.repeats


def _too_long(seconds) -> str:
    return f"more than {seconds:.0f} s"


def warm_up(methods):
    """The first call of each library, with its imports, on a tiny net."""
    rows = torch.rand(32, 1, 12, 12), torch.arange(32) % 10
    options = {"epochs": 1, "usual_epochs": 1, "module__channels": (2,)}
    case = make_case(SmallCNN, rows, rows, **options)
    for method in methods.values():
        _peers.answer(method, case)


def run_nets(arguments):
    for name, make in CASES.items():
        if re.search(arguments.nets, name):
            methods = {**OURS, **PLAIN, **PEERS, **PASSES}
            measure_case(f"nets: {name}", make, methods, arguments)


def run_rows(arguments):
    for n_rows in COUNTS[:1] if arguments.quick else COUNTS:
        make = partial(small_cnn, n_train=n_rows, n_trained=COUNTS[0])
        methods = {"sk_datadrop": ours, **PLAIN}
        methods |= KRONFLUENCE if n_rows <= MOST_ROWS_OF_PEERS else {}
        measure_case(f"rows: {n_rows}", make, methods, arguments)


# Tables.


def of_part(results, part) -> dict[str, dict]:
    """Results of a part by the name of the net, or the number of samples."""
    start = f"{part}: "
    return {k.removeprefix(start): v for k, v in results.items() if k.startswith(start)}


def seconds_of(result, name) -> float:
    """Return the median; NaN where there is none."""
    line = result["lines"].get(name, {"note": "not run"})
    return np.nan if line["note"] else float(np.median(line["seconds"]))


def usual_training(result) -> float:
    """Seconds of a training of the usual length."""
    factor = result.get("usual epochs", 1) / result.get("epochs", 1)
    return seconds_of(result, "training") * factor


def seconds_cell(result, name) -> str:
    """Return the seconds, or why there are none."""
    line = result["lines"].get(name, {"note": ""})
    if line["note"]:
        return "fails" if line["note"].startswith("failed") else line["note"]
    return amount(seconds_of(result, name))


def megabytes_cell(result, name) -> str:
    sizes = [b for b in result["lines"].get(name, {}).get("bytes", []) if b is not None]
    return f"{max(sizes) / 1e6:,.0f}" if sizes else ""


def amount(value) -> str:
    """Return three digits, never an exponent; nothing for NaN."""
    if np.isnan(value):
        return ""
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def ratio(over, under, form=amount) -> str:
    return "" if np.isnan(over / under) else form(over / under)


def percent(share) -> str:
    return f"{share:.0%}".replace("%", " %")


def net_table(results) -> str:
    """Compare the scoring with a forward pass, a training, and kronfluence."""
    rows = []
    for name, result in of_part(results, "nets").items():
        found = seconds_of(result, "sk_datadrop")
        rows.append(
            [
                name,
                f"{result['parameters']:,}" if "parameters" in result else "",
                f"{result['samples']:,}" if "samples" in result else "",
                amount(found),
                ratio(found, seconds_of(result, "forward pass")),
                ratio(found, usual_training(result), percent),
                ratio(seconds_of(result, "kronfluence EK-FAC"), found),
            ]
        )
    header = ["net", "parameters", "samples", "seconds", "forward passes"]
    header += ["of a training", "kronfluence takes times as long"]
    return as_markdown(header, rows)


def method_table(results) -> str:
    """Seconds and megabytes of every method, net after net."""
    rows = []
    for net, result in of_part(results, "nets").items():
        forward, whole = seconds_of(result, "forward pass"), usual_training(result)
        for name in (n for n in result["lines"] if n != "training"):
            found = seconds_of(result, name)
            shares = [ratio(found, forward), ratio(found, whole, percent)]
            cells = [seconds_cell(result, name), megabytes_cell(result, name)]
            rows.append([net, name, *cells, *shares])
        if not np.isnan(whole):
            name = f"training, {result['usual epochs']} epochs"
            rows.append([net, name, amount(whole), "", ratio(whole, forward), "100 %"])
    header = ["net", "method", "seconds", "MB", "forward passes", "of a training"]
    return as_markdown(header, rows)


def growth_table(results) -> str:
    """Seconds, and megabytes of ours, by the number of samples."""
    rows = [
        [
            f"{int(count.split()[0]):,}",
            seconds_cell(result, "sk_datadrop"),
            megabytes_cell(result, "sk_datadrop"),
            seconds_cell(result, "gradients by vmap"),
            megabytes_cell(result, "gradients by vmap"),
            seconds_cell(result, "kronfluence EK-FAC") or "not run",
        ]
        for count, result in of_part(results, "rows").items()
    ]
    header = ["samples", "sk_datadrop, s", "MB", "gradients by vmap, s", "MB"]
    return as_markdown([*header, "kronfluence EK-FAC, s"], rows)


def tables(results) -> dict[str, str]:
    """Return every table by its name in the docs."""
    return {
        "speed": net_table(results),
        "speed_by_method": method_table(results),
        "growth": growth_table(results),
    }


def main(arguments=None):
    arguments = parse_arguments(arguments)
    if not arguments.table:
        peers = {} if arguments.no_peers else PEERS
        warm_up({**OURS, **PLAIN, **peers, **PASSES})
        for part in arguments.parts:
            {"nets": run_nets, "rows": run_rows}[part](arguments)
    for table in tables(read_results(arguments.output)).values():
        print(f"\n{table}")


if __name__ == "__main__":
    main()
