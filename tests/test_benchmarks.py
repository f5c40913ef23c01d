"""The benchmarks run whole on tiny data, without other libraries."""

import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.stats import spearmanr
from sklearn.datasets import make_blobs
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split

from sk_datadrop._samples import Samples
from sk_datadrop._training import Recipe, train

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "examples" / "benchmarks"
WINE = "MLP, wine, symmetric 20 %"
DIABETES = "MLP, diabetes, gross 10 %"
IMAGES = "DnCNN, photographs, shift 20 %"
SMALL_RATE = ("MLP, digits", "CNN, 30 classes")


@pytest.fixture
def modules(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    names = ["_peers", "fidelity", "_nets", "_cells", "_rivals", "gauntlet", "speed"]
    names += ["whole_fit", "_figures", "report", "large", "soak"]
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    for name in names:
        del sys.modules[name]


@pytest.fixture
def fidelity(modules):
    return modules.fidelity


@pytest.fixture
def cells(modules):
    return modules._cells


@pytest.fixture
def rivals(modules):
    return modules._rivals


@pytest.fixture
def gauntlet(modules, monkeypatch):
    for name in ("cleanlab", "mnist1d"):
        monkeypatch.setitem(sys.modules, name, None)
    return modules.gauntlet


@pytest.fixture
def make_context(gauntlet, tmp_path):
    """Return a function that makes the context of a tiny version of a cell."""

    def make(cell=WINE, epochs=8):
        problem = gauntlet.CELLS[cell](0, quick=True)
        problem.net.set_params(max_epochs=epochs)
        return gauntlet.Context(problem, tmp_path / "cache")

    return make


def test_fidelity_runs_resumes_and_adds_to_its_results(fidelity, tmp_path, capsys):
    output = tmp_path / "fidelity.json"
    arguments = ["lds", "denoising", "mislabel", "--quick", "--no-peers"]
    arguments += ["--tasks", "digits symmetric$|denoising", "--cache", str(tmp_path)]
    arguments += ["--methods", "^sk_datadrop,|first order|captum"]
    fidelity.main([*arguments, "--output", str(output)])
    results = json.loads(output.read_text())
    assert list(results) == ["digits symmetric (quick)", "denoising gamma (quick)"]
    for result in results.values():
        lines = {line["method"]: line for line in result["lines"]}
        assert lines["captum TracInCP, three epochs"] == {
            "method": "captum TracInCP, three epochs",
            "note": "left out",
        }
        ours = lines["sk_datadrop, last epoch"]
        assert len(ours["lds"]) == len(fidelity.OBJECTIVES)
        assert np.shape(ours["lds by training"]) == (2, len(ours["lds"]))
        assert 0 <= ours["auc"] <= 1
    assert "left out" in capsys.readouterr().out
    journals = {path: path.read_bytes() for path in tmp_path.rglob("*.jsonl")}
    assert len(journals) == 4
    fidelity.main([*arguments, "--output", str(output)])
    assert journals == {path: path.read_bytes() for path in tmp_path.rglob("*.jsonl")}


def test_speed(tmp_path):
    output = tmp_path / "speed.json"
    arguments = ["--quick", "--no-peers", "--nets", "DnCNN", "--output", str(output)]
    # Another process, as one that has threads had better not fork.
    command = [sys.executable, str(BENCHMARKS / "speed.py"), "nets", *arguments]
    options = {"capture_output": True, "text": True, "check": True}
    options["env"] = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    shown = subprocess.run(command, **options).stdout
    assert "left out" in shown
    results = json.loads(output.read_text())
    lines = results["nets: DnCNN (quick)"]["lines"]
    assert lines["dattri CG"]["note"] == "left out"
    for name in ("sk_datadrop", "gradients by vmap", "forward pass", "training"):
        assert lines[name]["seconds"][0] > 0
        if sys.platform == "linux":
            assert lines[name]["bytes"][0] > 0


@pytest.fixture
def speed_arguments(modules, tmp_path):
    """Return a function that parses arguments with a file for the results."""
    output = ["--output", str(tmp_path / "speed.json"), "--repeats", "2"]
    return lambda *given: modules.speed.parse_arguments([*output, *given])


@pytest.fixture
def calls(modules, monkeypatch):
    """Methods in the order in which they are measured; a call takes 1, 2, 3... s."""
    made = []

    def measure(method, case, budget):
        made.append(method)
        if method == "fails":
            return {"note": "failed: so"}
        seconds = 30.0 if method == "slow" else float(len(made))
        return {"note": "", "seconds": seconds, "bytes": 10}

    monkeypatch.setattr(modules.speed, "measure", measure)
    return made


def measure_case(modules, arguments, methods=("fast", "fails", "slow")):
    case = SimpleNamespace(facts={"samples": 7})
    methods = {name: name for name in methods}
    modules.speed.measure_case("nets: x", lambda quick: case, methods, arguments)
    return json.loads(arguments.output.read_text())["nets: x"]


def test_speed_repeats_what_is_fast_in_turn(modules, speed_arguments, calls):
    result = measure_case(modules, speed_arguments())
    assert calls == ["fast", "fails", "slow", "fast"]
    assert result["samples"] == 7
    lines = {"fast": {"note": "", "seconds": [1.0, 4.0], "bytes": [10, 10]}}
    lines |= {"fails": {"note": "failed: so"}}
    lines |= {"slow": {"note": "", "seconds": [30.0], "bytes": [10]}}
    assert result["lines"] == lines


def test_speed_goes_on_where_it_was_killed(
    modules, speed_arguments, calls, monkeypatch
):
    counted = modules.speed.measure

    def until_killed(method, case, budget):
        if len(calls) == 3:
            raise KeyboardInterrupt
        return counted(method, case, budget)

    monkeypatch.setattr(modules.speed, "measure", until_killed)
    with pytest.raises(KeyboardInterrupt):
        measure_case(modules, speed_arguments(), ("fast", "other"))
    monkeypatch.setattr(modules.speed, "measure", counted)
    result = measure_case(modules, speed_arguments(), ("fast", "other"))
    assert calls == ["fast", "other", "fast", "other"]
    assert result["lines"]["fast"]["seconds"] == [1.0, 3.0]
    measure_case(modules, speed_arguments(), ("fast", "other"))
    assert len(calls) == 4
    measure_case(modules, speed_arguments("--again"), ("fast",))
    assert len(calls) == 6


@pytest.mark.parametrize(
    ("note", "is_known"),
    [("more than 9 s", True), ("more than 8 s", False), ("failed: so", False)],
)
def test_speed_asks_again_with_more_time(modules, speed_arguments, note, is_known):
    arguments = speed_arguments("--limit", "9")
    assert modules.speed.is_known({"note": note}, arguments) == is_known


def test_tables_of_speed_are_medians(modules):
    def line(*seconds, size=2e6):
        return {"note": "", "seconds": list(seconds), "bytes": [size] * len(seconds)}

    net = {
        "parameters": 1000,
        "samples": 2000,
        "epochs": 3,
        "usual epochs": 15,
        "lines": {
            "sk_datadrop": line(2.0, 9.0, 1.0),
            "kronfluence EK-FAC": line(30.0),
            "captum TracInCP": {"note": "failed: with some error"},
            "dattri CG": {"note": "more than 120 s"},
            "forward pass": line(0.5),
            "training": line(4.0),
        },
    }
    results = {"nets: A": net, "rows: 60000": {"lines": {"sk_datadrop": line(5.0)}}}
    tables = modules.speed.tables(results)
    assert tables["speed"].splitlines()[2:] == [
        "| A | 1,000 | 2,000 | 2 | 4 | 10 % | 15 |"
    ]
    rows = tables["speed_by_method"].splitlines()[2:]
    assert rows[:4] == [
        "| A | sk_datadrop | 2 | 2 | 4 | 10 % |",
        "| A | kronfluence EK-FAC | 30 | 2 | 60 | 150 % |",
        "| A | captum TracInCP | fails | - | - | - |",
        "| A | dattri CG | more than 120 s | - | - | - |",
    ]
    assert rows[-1] == "| A | training, 15 epochs | 20 | - | 40 | 100 % |"
    assert tables["growth"].endswith("| 60,000 | 5 | 2 | - | - | not run |\n")


def test_whole_fits(modules, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "cleanlab", None)
    monkeypatch.setitem(sys.modules, "cleanlab.classification", None)
    wine = {"MLP, wine": modules.gauntlet.CELLS[WINE]}
    monkeypatch.setattr(modules.whole_fit, "CELLS", wine)
    arguments = ["fits", "--quick", "--folder", str(tmp_path)]
    modules.whole_fit.main(arguments)
    before = (tmp_path / "whole_fit.json").read_bytes()
    lines = json.loads(before)["MLP, wine (quick)"]["lines"]
    assert lines["cleanlab"] == [{"note": "not installed (cleanlab.classification)"}]
    (found,) = lines["sk_datadrop"]
    assert found["seconds"] > sum(found["stages"].values())
    assert found["loss"] > 0
    modules.whole_fit.main(arguments)
    assert "known already" in capsys.readouterr().out
    assert (tmp_path / "whole_fit.json").read_bytes() == before


def test_processes_are_timed_and_resumed(modules, tmp_path, capsys, monkeypatch):
    whole_fit, script = modules.whole_fit, tmp_path / "script.py"
    script.write_text("print('round_one=0.01')")
    timed, seen = whole_fit.outcome_of, []

    def outcome_of(arguments, environment):
        seen.append((arguments, environment.get("OMP_NUM_THREADS")))
        return timed([str(script)], environment)

    monkeypatch.setattr(whole_fit, "outcome_of", outcome_of)
    arguments = ["workers", "--folder", str(tmp_path), "--settings", "cv=4"]
    whole_fit.main(arguments)
    whole_fit.main(arguments)
    assert [threads for _, threads in seen] == [
        None,
        None,
        "1",
        "1",
        "2",
        "2",
        None,
        None,
    ]
    assert seen[-1][0][1:5] == ["4", "set to 2", "2", "16"]
    for found in json.loads((tmp_path / "workers.json").read_text()).values():
        assert found["seconds"] > found["stages"]["round_one"] == 0.01
        assert found["bytes"] >= 0
    assert "| 4 | set to 2 | " in capsys.readouterr().out
    script.write_text("exit(3)")
    assert timed([str(script)], {}) == {"note": "failed with exit status 3"}


def test_a_user_s_script_fits_once(modules, tmp_path, capsys, monkeypatch):
    X, y = modules._cells.digits(0, 60)[0]
    np.savez(tmp_path / "digits.npz", X=X, y=y)
    options = ["2", "1", "1", "1", str(tmp_path / "digits.npz")]
    monkeypatch.setattr(sys, "argv", ["_one_fit.py", *options])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("_one_fit").main()
    shown = capsys.readouterr().out
    assert "epochs_of_round_one=2\n" in shown
    assert re.search(r"^scoring=\d+\.\d\d$", shown, re.MULTILINE)


@pytest.mark.parametrize(("n_splits", "gain"), [(2, 4 / 3), (3, 9 / 7), (4, 1.6)])
def test_gain_of_two_workers_has_a_bound(modules, n_splits, gain):
    assert modules.whole_fit.most_gain(n_splits) == pytest.approx(gain)


def test_influence_is_the_derivative_by_the_weight_of_a_row(fidelity):
    problem = fidelity.ridge_regression()
    predicted = fidelity.predictions(problem, "bounded", fidelity.Dense())
    exact = fidelity.responses(problem, "bounded", share=1e-3)
    np.testing.assert_allclose(predicted, exact, rtol=1e-2, atol=1e-6)


def test_datamodeling_score_of_the_truth_is_one(fidelity):
    rng = np.random.default_rng(0)
    masks = (rng.random((30, 40)) < 0.5).astype(float)
    helpfulness = rng.standard_normal(40)
    objective = np.column_stack([-masks @ helpfulness, masks @ helpfulness])
    assert fidelity.datamodeling_scores(helpfulness, masks, objective) == [1, -1]


def test_lines_are_compared_on_the_same_redrawn_subsets(fidelity):
    rng = np.random.default_rng(0)
    masks = rng.integers(2, size=(60, 30)).astype(float)
    helpfulness = rng.normal(size=30)
    objectives = -(masks @ helpfulness)[:, None] + rng.normal(size=(60, 1))
    lines = []
    for name, scores in [("same", helpfulness), ("noisy", rng.normal(size=30))]:
        redrawn = fidelity.redrawn_scores(scores, masks, objectives)
        lds = fidelity.datamodeling_scores(scores, masks, objectives)
        lines.append({"method": name, "lds": lds, "redrawn": redrawn})
    lines.append(lines[0] | {"method": "copy"})
    fidelity.add_differences(lines, "same")
    _, noisy, copy = lines
    assert copy["lds above EK-FAC"] == copy["its standard error"] == [0]
    assert noisy["lds above EK-FAC"] == [noisy["lds"][0] - copy["lds"][0]]
    assert 0.05 < noisy["its standard error"][0] < 0.3


def test_ceiling_is_the_root_of_the_reliability(fidelity):
    """The noise of the seeds is as large as what they share."""
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(4000, 1, 1))
    objectives = shared + rng.normal(size=(4000, 8, 1))
    found = spearmanr(objectives.mean(1)[:, 0], shared[:, 0, 0]).statistic
    assert fidelity.ceiling(objectives)[0] == pytest.approx(found, abs=0.02)


def test_torn_line_of_a_journal_is_computed_again(fidelity, tmp_path):
    path = tmp_path / "journal.jsonl"
    journal = fidelity.Journal(path)
    journal.get("a", lambda: {"value": 1})
    with path.open("a") as file:
        file.write('{"key": "b", "val')
    again = fidelity.Journal(path)
    assert again.get("a", lambda: {"value": 9}) == {"value": 1}
    assert again.get("b", lambda: {"value": 2}) == {"value": 2}
    assert fidelity.Journal(path).values == {"a": {"value": 1}, "b": {"value": 2}}


def test_library_that_is_not_installed_gets_a_line(modules, monkeypatch):
    peers = modules._peers
    for name in ("captum", "captum.influence"):
        monkeypatch.setitem(sys.modules, name, None)
    scores, note = peers.answer(peers.captum_tracin, None)
    assert scores is None
    assert note == "not installed (captum.influence)"


def test_plain_gradients_agree_with_first_order_influence(modules, tmp_path):
    peers, fidelity = modules._peers, modules.fidelity
    task = fidelity.denoising_task("gamma", quick=True)
    context = fidelity.Context(task, 1, False, fidelity.Journal(tmp_path / "scores"))
    plain = fidelity.peer(peers.gradient_dots, context, 0, (2,), "loss")
    ours = fidelity.METHODS["first order"].function(context, 0, (2,), "loss")
    assert np.corrcoef(plain, ours)[0, 1] > 0.9999


def test_gauntlet_runs_resumes_and_replaces(gauntlet, tmp_path, capsys):
    path, cache = tmp_path / "results" / "r.jsonl", tmp_path / "cache"
    arguments = [WINE, DIABETES, IMAGES, "1-D CNN, MNIST-1D, clean", "--quick"]
    arguments += ["--seeds", "1", "--results", str(path), "--cache", str(cache)]
    gauntlet.main(arguments)
    shown = capsys.readouterr().out
    assert "1-D CNN, MNIST-1D, clean: left out, mnist1d is not installed" in shown
    assert "; cleanlab: left out, not installed (cleanlab.classification)" in shown
    assert "; cleanlab: left out, labels and 1-D targets only" in shown
    assert "; AUM: left out, classification only" in shown
    assert "failed" not in shown
    path = path.with_name("r-quick.jsonl")
    for cell, answers in gauntlet.read_results(path).items():
        assert [len(lines) for lines in answers.values()] == [1] * len(answers)
        lines = {method: line[10] for method, line in answers.items()}
        n_finals = 1 if cell == IMAGES else 3
        for method, line in lines.items():
            assert np.isfinite([line["score"], line["loss"], line["seconds"]]).all()
            assert line["loss"] == pytest.approx(np.mean(line["losses"]), rel=1e-4)
            if method != "mean of round 1's nets":
                assert len(line["scores"]) == len(line["losses"]) == n_finals
            assert (line["dropped"] == 0) == (line["precision"] is None)
            assert json.dumps(gauntlet.rounded(line)) == json.dumps(line)
        check_choices(lines)
        check_costs(lines)
        assert ("GCE" in lines) == ("AUM" in lines) == (cell == WINE)
        assert ("L1" in lines) == (cell != WINE)
        assert ("Huber" in lines) == (cell == DIABETES)
    before = path.read_bytes()
    gauntlet.main([*arguments, "--methods", "none|random|data"])
    gauntlet.main([*arguments, "--table"])
    assert path.read_bytes() == before
    assert capsys.readouterr().out.count("| 120 | 24 | 1 |\n") == 2
    gauntlet.main([*arguments, "--methods", "^none$|^data dropout$", "--replace"])
    old, new = (text.splitlines() for text in (before.decode(), path.read_text()))
    assert new[: len(old)] == old
    assert len(new) == len(old) + 2 * 3
    # The same to the last digit, from the cache or not, but for the time it took.
    for text in new[len(old) :]:
        line = json.loads(text)
        key = line["cell"], line["seed"], line["method"]
        earlier = [x for x in map(json.loads, old) if tuple(x.values())[:3] == key]
        assert [line | {"seconds": 0}] == [x | {"seconds": 0} for x in earlier]
        assert gauntlet.read_lines(path)[key] == line


def check_choices(lines):
    rates = {m: [line["precision"], line["recall"]] for m, line in lines.items()}
    for method in ("oracle", "oracle, as many steps"):
        assert rates[method] == [1, 1]
        assert lines[method]["clean_dropped"] == 0
    assert lines["none"]["dropped"] == 0
    as_ours = {"random", "highest loss", "data dropout, fewer steps"}
    assert {lines[m]["dropped"] for m in as_ours} == {lines["data dropout"]["dropped"]}
    assert rates["data dropout, fewer steps"] == rates["data dropout"]


def check_costs(lines):
    costs = {method: line["trainings"] for method, line in lines.items()}
    assert costs["none"] == costs["oracle, as many steps"] == costs["random"] == 1
    n_rows = lines["none"]["rows"]
    assert costs["oracle"] == pytest.approx(1 - lines["none"]["spoiled"] / n_rows)
    saved = costs["data dropout"] - costs["data dropout, fewer steps"]
    assert saved == pytest.approx(lines["data dropout"]["dropped"] / n_rows, abs=1e-4)
    assert costs["mean of round 1's nets"] == pytest.approx(costs["data dropout"] - 1)
    assert costs["early stopping"] == 0.8


def test_gauntlet_as_a_script_keeps_its_splits(tmp_path):
    arguments = [WINE, "--quick", "--seeds", "1", "--methods", "^data dropout$"]
    arguments += ["--results", str(tmp_path / "r.jsonl"), "--cache", str(tmp_path)]
    subprocess.run(
        [sys.executable, str(BENCHMARKS / "gauntlet.py"), *arguments],
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=True,
    )
    line = json.loads((tmp_path / "r-quick.jsonl").read_text())
    # joblib only warns of what it cannot write.
    assert not [m for m in line.get("warnings", []) if "Persisting" in m]
    assert len(list(tmp_path.rglob("output.pkl"))) >= 2


def test_torn_line_of_the_gauntlet_is_left_alone(gauntlet, tmp_path):
    path = tmp_path / "r.jsonl"
    line = {"cell": "a", "seed": 0, "method": "none", "loss": 1 / 3}
    gauntlet.add_line(path, line)
    with path.open("a") as file:
        file.write('{"cell": "a", "se')
    gauntlet.add_line(path, {**line, "seed": 1})
    lines = gauntlet.read_lines(path)
    assert list(lines) == [("a", 0, "none"), ("a", 1, "none")]
    assert lines["a", 0, "none"]["loss"] == 0.333333


@pytest.mark.parametrize("cell", [WINE, DIABETES, IMAGES])
def test_held_out_losses_are_those_of_the_best_epoch_in_order(
    gauntlet, make_context, cell
):
    context = make_context(cell, epochs=3 if cell == IMAGES else 8)
    losses = gauntlet.held_out_losses(context)
    for split, net in zip(context.splits, context.best_nets, strict=True):
        best = min(net.history[:, "valid_loss"])
        assert losses[split.held_out].mean() == pytest.approx(best, rel=1e-4)


def test_mean_of_nets_is_that_of_their_best_epochs(gauntlet, make_context):
    context = make_context()
    X, y = context.problem.test
    probabilities = np.mean([n.predict_proba(X) for n in context.best_nets], axis=0)
    outcome = gauntlet.mean_of_nets(context).outcome
    assert outcome["loss"] == pytest.approx(log_loss(y, probabilities), rel=1e-5)
    assert outcome["score"] == np.mean(probabilities.argmax(1) == y)


def test_final_nets_share_their_weights_and_are_trained_once(
    gauntlet, make_context, monkeypatch
):
    context, again = make_context(), make_context()
    everything = gauntlet.keep_all(context)
    first = context.result_of(everything)
    assert len(set(first["losses"])) == 3
    assert again.result_of(everything) | {"seconds": 0} == first | {"seconds": 0}
    robust = gauntlet.METHODS["label smoothing"](context)
    assert context.result_of(robust)["loss"] != first["loss"]
    monkeypatch.setattr(gauntlet, "outcome_of", None)
    # Topped up, all rows are the same rows, in the same order.
    kept = context.everything
    rows = context.topped_up(kept)
    assert context.result_of(gauntlet.Answer(kept, rows=rows)) is first


def test_random_rows_are_as_many_of_each_class(gauntlet, make_context):
    context = make_context()
    n_rows = len(context.problem.spoiled)
    dropped = np.random.default_rng(0).permutation(n_rows) < n_rows // 3
    context.round_one = SimpleNamespace(sample_mask_=~dropped), []
    answer = gauntlet.random(context)
    labels, shuffled = context.problem.labels, ~answer.kept
    np.testing.assert_array_equal(
        np.bincount(labels[shuffled]), np.bincount(labels[dropped])
    )
    assert not np.array_equal(shuffled, dropped)
    assert len(answer.rows) == n_rows


# Rivals.


@pytest.fixture
def blobs_problem(modules):
    """Three classes far apart, a tenth of the labels wrong, and a few epochs."""
    X, truth = make_blobs(300, cluster_std=1.0, random_state=3)
    X, y, spoiled = modules._cells.flip(X.astype(np.float32), truth, 0, rate=0.1)
    net = modules._cells.table_classifier(300, epochs=10, n_outputs=3)
    return modules._cells.Problem(net, (X, y), (X, truth), spoiled, 0)


def test_area_under_margin_finds_flipped_labels(rivals, blobs_problem):
    dropped = ~rivals.area_under_margin(blobs_problem)
    spoiled = blobs_problem.spoiled
    assert dropped[spoiled].mean() > 0.9
    assert dropped[~spoiled].mean() < 0.3
    np.testing.assert_array_equal(dropped, ~rivals.area_under_margin(blobs_problem))


def test_margin_is_that_of_the_given_label(rivals):
    logits = np.array([[1.0, 4.0, 2.0], [1.0, 4.0, 2.0]])
    np.testing.assert_array_equal(rivals.margins(logits, np.array([1, 2])), [2, -2])


def test_margins_are_measured_at_the_end_of_an_epoch(rivals, blobs_problem):
    X, y = blobs_problem.train
    recorder = rivals.Margins(X, y)
    net = blobs_problem.net.set_params(max_epochs=1)
    net = train(net, Samples(X, y), Recipe("margins", 0), first=[recorder])
    last = rivals.margins(net.forward(X).double().numpy(), y)
    np.testing.assert_allclose(recorder.total_, last, rtol=1e-6)


def test_generalised_cross_entropy_is_its_closed_form(rivals):
    logits = torch.tensor(np.random.default_rng(0).standard_normal((20, 5)))
    y = torch.arange(20) % 5
    p = logits.softmax(1)[torch.arange(20), y]
    for q in (0.3, 0.7, 1.0):
        loss = rivals.GeneralisedCrossEntropy(q)(logits, y)
        torch.testing.assert_close(loss, ((1 - p**q) / q).mean())
    limit = rivals.GeneralisedCrossEntropy(1e-6)(logits, y)
    expected = torch.nn.functional.cross_entropy(logits, y)
    torch.testing.assert_close(limit, expected, rtol=1e-4, atol=0)


def test_probabilities_of_a_net_with_a_robust_loss_are_such(rivals, blobs_problem):
    net = blobs_problem.net.set_params(criterion=rivals.GeneralisedCrossEntropy)
    X, y = blobs_problem.train
    probabilities = net.fit(X, y).predict_proba(X)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    assert (probabilities >= 0).all()


@pytest.mark.parametrize("cell", [WINE, DIABETES])
def test_early_stopping_has_the_weights_of_the_best_epoch(
    gauntlet, rivals, make_context, cell
):
    problem = make_context(cell, epochs=40).problem
    net = rivals.stopped_early(problem, Recipe("early stopping", 7))
    _, held_out = train_test_split(
        np.arange(len(problem.spoiled)),
        test_size=0.2,
        stratify=problem.labels,
        random_state=7,
    )
    losses = net.history[:, "valid_loss"]
    assert np.argmin(losses) < len(losses) - 1
    X, y = problem.rows(held_out)
    _, loss = gauntlet.evaluate(
        (net.predict_proba if problem.is_classifier else net.predict)(X),
        SimpleNamespace(test=(X, y), is_classifier=problem.is_classifier),
    )
    assert loss == pytest.approx(min(losses), rel=1e-4)


def test_literal_rule_drops_rows_it_has_scored(rivals, make_context):
    kept = rivals.literal_rule(make_context().problem)
    assert 0 < np.sum(~kept) <= 0.8 * len(kept)


# Cells.


def test_every_cell_has_rows_for_its_net(cells, modules):
    for name, make in (cells.CHOOSING | cells.REPORTING).items():
        try:
            problem = make(3, quick=True)
        except modules._peers.CannotAnswer:
            continue
        (X, y), (X_test, y_test), spoiled = problem.train, problem.test, problem.spoiled
        assert len(X) == len(y) == len(spoiled) <= 150, name
        assert len(X_test) == len(y_test) <= 100, name
        clean = name.endswith(("clean", "noise", "tails", "spread"))
        assert spoiled.any() != clean, name
        with torch.no_grad():
            outputs = problem.net.initialize().forward(X[:4])
        if problem.is_classifier:
            assert y.max() < outputs.shape[1], name
        else:
            assert outputs.shape == y[:4].shape, name
            assert X.dtype == y.dtype == np.float32, name


def test_no_cell_is_for_choosing_and_for_reporting(cells):
    assert not set(cells.CHOOSING) & set(cells.REPORTING)


def test_rare_class_keeps_a_twentieth_and_most_of_its_labels(cells):
    X, y = np.arange(4000), np.repeat(np.arange(10), 400)
    kept, given, spoiled = cells.make_rare_and_flip(X, y, 0, label=8, rate=0.2)
    truth = y[kept]
    np.testing.assert_array_equal(np.bincount(truth), [400] * 8 + [20, 400])
    np.testing.assert_array_equal(given != truth, spoiled)
    assert spoiled.sum() == round(0.2 * 3620)
    assert np.mean(truth[given == 8] == 8) > 0.5


def test_one_class_is_half_wrong(cells):
    y = np.repeat(np.arange(10), 40)
    _, given, spoiled = cells.spoil_one_class(y, y, 0, label=3)
    np.testing.assert_array_equal(given != y, spoiled)
    np.testing.assert_array_equal(np.bincount(y[spoiled]), [0, 0, 0, 20])
    assert len(np.unique(given[spoiled])) > 5


def test_weak_annotator_labels_all_rows_by_the_inputs(cells):
    (X, y), _ = cells.digits(0, 600)
    X_given, given, spoiled = cells.weak_annotator(X, y, 0)
    assert X_given is X
    np.testing.assert_array_equal(given != y, spoiled)
    assert 0.05 < spoiled.mean() < 0.4
    # Equal inputs get equal labels, wrong ones too: it is no coin that was tossed.
    twice = np.concatenate([X, X]), np.concatenate([y, y])
    _, given, _ = cells.weak_annotator(*twice, 0)
    np.testing.assert_array_equal(given[:600], given[600:])


def test_foreign_inputs_are_no_digits_and_have_random_labels(cells):
    (X, y), _ = cells.digits(0, 1000)
    X_given, given, spoiled = cells.foreign_inputs(X, y, 0, rate=0.3)
    assert spoiled.sum() == 300
    changed = (X_given != X).reshape(len(X), -1).any(1)
    np.testing.assert_array_equal(changed, spoiled)
    np.testing.assert_array_equal(given[~spoiled], y[~spoiled])
    assert X_given.dtype == np.float32
    assert X_given.min() >= 0
    assert X_given.max() <= 1
    assert np.mean(given[spoiled] == y[spoiled]) < 0.2


def test_shuffled_pixels_are_those_of_the_row(cells):
    (X, y), _ = cells.digits(0, 200)
    X_given, given, spoiled = cells.shuffled_pixels(X, y, 0, rate=0.2)
    changed = (X_given != X).reshape(200, -1).any(1)
    np.testing.assert_array_equal(changed, spoiled)
    assert spoiled.sum() == 40
    before, after = (np.sort(images.reshape(200, -1)) for images in (X, X_given))
    np.testing.assert_array_equal(before, after)
    np.testing.assert_array_equal(given, y)


@pytest.mark.parametrize("shape", [(50,), (50, 1, 3, 3)])
def test_swapped_targets_go_around_among_the_spoiled(cells, shape):
    y = np.random.default_rng(0).random(shape)
    _, given, spoiled = cells.swap_targets(y, y, 0, rate=0.2)
    assert spoiled.sum() == 10
    changed = (given != y).reshape(50, -1).any(1)
    np.testing.assert_array_equal(changed, spoiled)
    before, after = (np.sort(v.reshape(50, -1)[:, 0]) for v in (y, given))
    np.testing.assert_array_equal(before, after)


def test_errors_of_values(cells):
    y = np.random.default_rng(0).random(100)
    _, given, spoiled = cells.add_errors(y, y, 0, rate=0.1, size=20)
    np.testing.assert_allclose(np.abs(given - y), 20 * spoiled)
    assert len(np.unique(np.sign(given - y))) == 3
    _, given, spoiled = cells.mistake_unit(y, y, 0, rate=0.1)
    np.testing.assert_allclose(given / y, np.where(spoiled, 2.54, 1))
    _, given, spoiled = cells.add_constant(y, y, 0, rate=0.1, constant=2)
    np.testing.assert_allclose(given - y, 2 * spoiled)
    assert spoiled.sum() == 10


@pytest.mark.parametrize("noise", ["normal", "skewed", "heavy tails", "varying"])
def test_honest_noise_has_no_bias(cells, noise):
    (X, y), (_, y_test) = cells.friedman(0, 20_000, noise=noise)
    (_, same), _ = cells.friedman(0, 20_000)
    assert len(y_test) == 2000
    errors = y - same + np.random.default_rng(3000).standard_normal(20_000)
    assert abs(errors.mean()) < 0.1
    assert np.corrcoef(X[:, 0], np.abs(errors))[0, 1] > (
        0.3 if noise == "varying" else -1
    )


# A fit on a memory map, killed and started again.


def test_large_fits_beside_a_plain_training(modules, tmp_path, monkeypatch):
    large = modules.large
    rng = np.random.default_rng(0)
    digits = 255 * rng.random((1100, 784)), np.arange(1100) % 10
    monkeypatch.setattr(large, "mnist_data", lambda: digits)
    arguments = large.parse_arguments(["--folder", str(tmp_path), "--epochs", "1"])
    large.write_samples(tmp_path, 90)
    labels = np.load(tmp_path / "labels.npz")
    assert labels["is_wrong"].sum() == 9
    assert np.load(tmp_path / "X.npy", mmap_mode="r").shape == (90, 1, 28, 28)
    assert len(np.load(tmp_path / "test.npz")["y"]) == 1000
    arguments.memory = tmp_path / "memory"
    for arguments.child, n_trainings in (("fit", 4), ("plain", 1)):
        (tmp_path / "journal.jsonl").unlink(missing_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            large.run_child(arguments)
        names = [event["event"] for event in large.events(tmp_path)]
        assert names == ["begin"] + n_trainings * ["training", "epoch"]
        assert 0 <= json.loads((tmp_path / "found.json").read_text())["accuracy"] <= 1
    assert len(list(tmp_path.rglob("output.pkl"))) == 3


CHILD = """
import sys, time
with open(sys.argv[1] + "/journal.jsonl", "a") as file:
    file.write(sys.argv[2])
time.sleep(float(sys.argv[3]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_large_counts_what_a_killed_child_repeats(modules, tmp_path, monkeypatch):
    large = modules.large

    def command(seconds, *trainings):
        lines = [{"event": "begin", "private": 5}]
        for which in trainings:
            lines.append({"event": "training", "which": which})
            lines.append({"event": "epoch", "seconds": 0.1})
        text = "".join(json.dumps(line) + "\n" for line in lines)
        return [sys.executable, "-c", CHILD, str(tmp_path), text, str(seconds)]

    runs = iter([command(60, 1, 2), command(0.2, 2, 3, 4)])
    watch = large.watch
    monkeypatch.setattr(large, "watch", lambda _, *a, **k: watch(next(runs), *a, **k))
    monkeypatch.setattr(large, "command_of", lambda *_: None)
    found = large.killed_and_started_again(SimpleNamespace(folder=tmp_path))
    assert found["killed"]["seconds"] < 30
    assert found["killed"]["private bytes at the peak"] > 2**20
    assert (found["trainings"], found["trainings repeated"]) == (4, 1)


# Many fits in one process.


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_soak_measures_and_finds_what_grows(modules, tmp_path, monkeypatch):
    soak, output = modules.soak, tmp_path / "soak.json"
    monkeypatch.setattr(soak, "EVERY", 1)
    monkeypatch.setattr(soak, "SETTLED", 2)
    monkeypatch.setattr(soak, "KINDS", soak.KINDS[1:4:2])
    soak.main(["--fits", "2", "--output", str(output)])
    assert [line["files"] for line in json.loads(output.read_text())["lines"]] == [0, 0]
    opened = []
    monkeypatch.setattr(soak, "fit", lambda *_: opened.append(tempfile.mkstemp()[0]))
    with pytest.raises(SystemExit, match="open files.*files: 2, then 4"):
        soak.main(["--fits", "4", "--output", str(output)])
    for number in opened:
        os.close(number)


# Tables.


def lines_of(*losses, spoiled=2, dropped=3, clean_dropped=0.1):
    return {
        seed: {
            "loss": loss,
            "score": 1 - loss,
            "losses": [loss],
            "rows": 10,
            "spoiled": spoiled,
            "dropped": dropped,
            "precision": 0.5,
            "recall": 1.0,
            "clean_dropped": clean_dropped,
            "trainings": 2.0,
            "seconds": 3.0,
        }
        for seed, loss in enumerate(losses)
    }


@pytest.fixture
def results():
    """Two cells with a gap, one without beyond noise, and a clean one."""
    oracle = lines_of(0.1, 0.12, 0.11)
    return {
        "easy": {
            "none": lines_of(0.5, 0.52, 0.51),
            "oracle": oracle,
            "cleanlab": lines_of(0.4, 0.42, 0.41),
            "data dropout": lines_of(0.2, 0.22, 0.21),
        },
        "hard": {
            "none": lines_of(0.2, 0.22, 0.21),
            "oracle": oracle,
            "GCE": lines_of(0.11, 0.13, 0.12),
            "data dropout": lines_of(0.5, 0.52, 0.51),
        },
        "noisy": {
            "none": lines_of(0.1, 0.3, 0.2),
            "oracle": lines_of(0.2, 0.1, 0.15),
            "data dropout": lines_of(0.1, 0.3, 0.2),
        },
        "clean": {
            "none": lines_of(0.1, 0.3, 0.2, spoiled=0),
            "cleanlab": lines_of(0.2, 0.4, 0.31, spoiled=0),
            "data dropout": lines_of(0.1, 0.3, 0.2, spoiled=0, clean_dropped=0.02),
        },
    }


def test_paired_interval_is_that_of_scipy_over_the_common_seeds(gauntlet):
    first, second = (0.9, 0.8, 0.85), (0.7, 0.75, 0.6, 0.1)
    methods = {"a": lines_of(*first), "b": lines_of(*second)}
    mean, half = gauntlet.paired_interval(methods, "a", "b", "loss")
    expected = stats.ttest_rel(first, second[:3]).confidence_interval()
    assert (mean - half, mean + half) == pytest.approx(tuple(expected))
    assert gauntlet.interval_cell(mean, half) == "+0.17 ± 0.26"
    assert gauntlet.interval_cell(3.0, 1.0, " %") == "**+3 % ± 1**"
    assert gauntlet.interval_cell(3.0, np.nan) == "+3"
    assert gauntlet.interval_cell(-123.4, 456.0) == "-123 ± 456"
    missing = gauntlet.paired_interval(methods, "a", "c", "loss")
    assert gauntlet.interval_cell(*missing) == ""


def test_gap_closed_is_pooled_and_only_where_there_is_one(gauntlet, results):
    assert gauntlet.gap_closed(results["easy"], "data dropout") == pytest.approx(0.75)
    assert gauntlet.gap_closed(results["easy"], "cleanlab") == pytest.approx(0.25)
    assert gauntlet.gap_closed(results["easy"], "cleanlab", "score") == pytest.approx(
        0.25
    )
    assert np.isnan(gauntlet.gap_closed(results["easy"], "GCE"))
    backwards = {"none": lines_of(0.1), "oracle": lines_of(0.2)}
    assert np.isnan(gauntlet.gap_closed(backwards, "none"))
    gaps = [cell for cell, methods in results.items() if gauntlet.has_gap(methods)]
    assert gaps == ["easy", "hard"]
    assert gauntlet.mean_share([5, 0.5, -9]) == pytest.approx((1.5 + 0.5 - 1) / 3)


def test_share_without_a_gap_is_in_brackets(gauntlet, results):
    table = gauntlet.gap_table(results)
    rows = {row.split(" | ")[0].strip("| "): row for row in table.splitlines()}
    assert rows["easy"] == "| easy | **+78 % ± 0** | 75 % | 25 % | - | 10 | 2 | 3 |"
    assert rows["hard"].endswith("| < -200 % | - | 90 % | 10 | 2 | 3 |")
    assert rows["noisy"].endswith("| (0 %) | - | - | 10 | 2 | 3 |")
    assert rows["mean where there is a gap"].endswith(
        "-12 % | 25 % | 90 % | - | - | - |"
    )
    assert "clean" not in rows


def test_summary_counts_cells_with_a_gap(gauntlet, results):
    summary = gauntlet.summary(results)
    assert summary["cells with a gap"] == 2
    assert summary["mean gap closed"] == pytest.approx((0.75 - 1) / 2)
    assert summary["worst cell"] == "hard"
    assert summary["its gap closed"] == pytest.approx(-3)
    assert summary["worse than none"] == ["hard"]
    assert summary["worse than cleanlab"] == []
    assert summary["samples dropped in clean cells"] == pytest.approx(0.02)
    assert list(summary["rivals"]) == ["cleanlab", "GCE"]
    assert summary["rivals"]["cleanlab"] == {
        "cells": 1,
        "mean gap closed": pytest.approx(0.25),
        "mean gap closed by data dropout there": pytest.approx(0.75),
        "cells with an interval": 2,
        "better cells": ["easy", "clean"],
        "worse cells": [],
    }
    assert np.isnan(gauntlet.summary({})["mean gap closed"])
    _, table = gauntlet.tables(results)["summary"]
    assert "| GCE | 1 | 90 % | -100 % | 0 | 0 | 1 |" in table
    assert "| cleanlab | 1 | 25 % | 75 % | 2 | 0 | 0 |" in table


@pytest.mark.parametrize(
    ("value", "text"), [(0.0129, "0.013"), (9.96, "10"), (99.6, "100"), (-0.0, "0")]
)
def test_two_digits_have_no_exponent(gauntlet, value, text):
    assert gauntlet.two_digits(value) == text


def test_tables_of_labels_and_of_other_targets_are_apart(gauntlet, results):
    for line in results["easy"]["data dropout"].values():
        line["is_regression"] = True
    halves = gauntlet.by_target(results)
    assert list(halves["Numbers and images"]) == ["easy"]
    _, table = gauntlet.tables(results)["score"]
    labels, others = table.split("Numbers and images")
    assert "| hard |" in labels
    assert "| easy |" not in labels
    assert "| cell | data dropout | cleanlab | oracle | none |" in others


# The page, and its figures.


def test_the_pages_have_the_tables_of_the_results(modules):
    texts, found = modules.report.tables(), set()
    for page in modules.report.PAGES:
        text = page.read_text()
        assert modules.report.filled(text, texts) == text, "run report.py"
        found |= {name for _, name, _ in modules.report.MARKED.findall(text)}
    assert found == set(texts)


def test_tables_are_put_between_their_comments_only(modules):
    begin, end = "<!-- table: {} -->", "<!-- end -->"
    parts = ["a", begin.format("one"), end, "b", begin.format("two"), "old", end, "c"]
    texts = {"one": "1\n", "two": "2\n"}
    once = modules.report.filled("\n\n".join(parts), texts)
    parts[5] = "2"
    parts.insert(2, "1")
    assert once.split() == "\n".join(parts).split()
    assert modules.report.filled(once, texts) == once
    with pytest.raises(KeyError):
        modules.report.filled(once, {})


def test_the_figures_are_those_of_the_results(modules):
    report = modules.report
    figures = modules._figures
    names = [*figures.GAUNTLET, *figures.FROM_FIDELITY, "reliability", "speed"]
    page = report.PAGES[0].read_text()
    assert set(re.findall(r"images/(\w+)\.svg", page)) == set(names)
    for name in names:
        drawn = (report.IMAGES / f"{name}.svg").read_text()
        assert report.fingerprint(report.source_of(name)) in drawn, "run report.py"


def test_the_answer_of_the_page_is_that_of_the_results(modules):
    gauntlet = modules.gauntlet
    found = gauntlet.summary(gauntlet.read_results(gauntlet.RESULTS))
    cleanlab = found["rivals"]["cleanlab"]
    answer = " ".join(modules.report.PAGES[0].read_text().split("!")[0].split())
    for sentence in (
        f"recovers {found['mean gap closed']:.0%} of what".replace("%", " %"),
        f"over {found['cells with a gap']} combinations",
        f"cleanlab recovers {cleanlab['mean gap closed']:.0%}".replace("%", " %"),
        f"on the {cleanlab['cells']} of them",
        f"drops {found['samples dropped in clean cells']:.1%} of".replace("%", " %"),
    ):
        assert sentence in answer


@pytest.mark.parametrize("chosen", [["easy", "hard", "noisy", "clean"], ["easy"]])
@pytest.mark.parametrize("is_beside", [True, False])
def test_forest_plot(modules, results, tmp_path, chosen, is_beside):
    figures = modules._figures
    path = tmp_path / "figure.svg"
    panels = figures.gain({cell: results[cell] for cell in chosen})
    figures.forest([*panels, *panels], path, "lines 1", is_beside=is_beside)
    assert "lines 1" in path.read_text()


def test_points_of_the_figures_are_those_of_the_tables(modules, results):
    figures, gauntlet = modules._figures, modules.gauntlet
    (panel,) = figures.gain(results)
    ours, cleanlab, oracle = panel.series
    assert list(ours.points) == ["easy", "hard", "noisy"]
    mean, low, high = ours.points["easy"]
    expected = gauntlet.percent_of_none(results["easy"], "none", "data dropout")
    assert (mean, (high - low) / 2) == pytest.approx(expected)
    assert list(cleanlab.points) == ["easy"]
    assert oracle.points["easy"][0] == pytest.approx(100 * 0.4 / 0.51)
    assert panel.rows[1:] == [("easy", False), ("noisy", False), ("hard", False)]
    panel, losses = figures.clean(results)
    assert panel.series[0].points == {"clean": (2, 2, 2)}
    assert losses.series[1].points["clean"][0] > 0


def test_figure_of_speed_has_an_arrow_for_what_took_too_long(modules):
    line = {"note": "", "seconds": [3.0, 1.0, 2.0], "bytes": [1, 1, 1]}
    lines = {"sk_datadrop": line, "forward pass": line, "dattri CG": {"note": "failed"}}
    lines["kronfluence EK-FAC"] = {"note": "more than 120 s"}
    (panel,) = modules._figures.speed({"nets: A": {"lines": lines}, "rows: 5": {}})
    ours, others = panel.series
    assert {row: point[0] for row, point in ours.points.items()} == {
        "A: sk_datadrop": 2
    }
    assert list(others.points) == ["A: kronfluence EK-FAC"]
    assert others.points["A: kronfluence EK-FAC"][0] > panel.limits[1]


def test_cells_are_grouped_by_their_data(modules):
    kinds = {cell: modules._figures.kind_of(cell) for cell in modules.gauntlet.CELLS}
    assert "Others" not in kinds.values()
    assert kinds["1-D CNN, MNIST-1D, pair 20 %"] == "Signals"
    assert kinds["MLP, cuts of diamonds, clean"] == "Tables, classes"
    assert kinds["MLP, diamonds, clean"] == "Tables, numbers"


@pytest.mark.parametrize(
    ("arguments", "runs"),
    [
        (["--cells", "wine, clean"], [("MLP, wine, clean", 10)]),
        (["--cells", "y 10", "--first-seed", "4"], []),
        (
            ["--group", "choosing", "--cells", "s, symmetric 10", "--seeds", "2"],
            [(f"{name}, symmetric 10 %", 0) for name in SMALL_RATE]
            + [(f"{name}, symmetric 10 %", 1) for name in SMALL_RATE],
        ),
        (
            ["--group", "all", "--cells", "wine|Friedman, clean"],
            [("MLP, Friedman, clean", 0), ("MLP, wine, clean", 10), (WINE, 10)],
        ),
        (["MLP, wine, clean", "--first-seed", "4"], [("MLP, wine, clean", 4)]),
        (["MLP, wine, clean", "--table"], []),
    ],
)
def test_seeds_and_cells_chosen(gauntlet, tmp_path, monkeypatch, arguments, runs):
    seen = []
    monkeypatch.setattr(
        gauntlet, "run_seed", lambda cell, seed, *rest: seen.append((cell, seed))
    )
    results = ["--results", str(tmp_path / "r.jsonl")]
    gauntlet.main(["--seeds", "1", *results, *arguments])
    assert seen == runs


def test_unknown_cell_is_refused(gauntlet, capsys):
    with pytest.raises(SystemExit):
        gauntlet.main(["MLP, whine"])
    assert "MLP, wine, clean" in capsys.readouterr().err
