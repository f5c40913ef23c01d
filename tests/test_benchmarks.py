"""The benchmarks run whole on tiny data, without other libraries."""

import importlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import log_loss

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "examples" / "benchmarks"


@pytest.fixture
def modules(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    names = ("_peers", "fidelity", "speed", "retrain")
    yield [importlib.import_module(name) for name in names]
    for name in names:
        del sys.modules[name]


@pytest.fixture
def fidelity(modules):
    return modules[1]


@pytest.fixture
def retrain(modules, monkeypatch):
    for name in ("cleanlab", "mnist1d"):
        monkeypatch.setitem(sys.modules, name, None)
    return modules[3]


@pytest.fixture
def small_problem(retrain):
    """150 digits, a fifth of the labels wrong, and some epochs on them."""
    problem = retrain.digits_problem(0, True, spoil=retrain.TWENTY)
    return replace(problem, net=problem.net.set_params(max_epochs=8))


def test_fidelity_runs_resumes_and_adds_to_its_results(fidelity, tmp_path, capsys):
    output = tmp_path / "fidelity.json"
    arguments = ["lds", "denoising", "mislabel", "--quick", "--no-peers"]
    arguments += ["--tasks", "digits symmetric$|denoising", "--cache", str(tmp_path)]
    arguments += ["--methods", "^Gauss-Newton|trajectory 10|captum"]
    fidelity.main([*arguments, "--output", str(output)])
    results = json.loads(output.read_text())
    assert list(results) == ["digits symmetric (quick)", "denoising gamma (quick)"]
    for result in results.values():
        lines = {line["method"]: line for line in result["lines"]}
        assert lines["captum TracInCP, last epoch"] == {
            "method": "captum TracInCP, last epoch",
            "note": "left out",
        }
        ours = lines["Gauss-Newton, last epoch"]
        assert len(ours["lds"]) == len(fidelity.OBJECTIVES)
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
    shown = subprocess.run(
        [sys.executable, str(BENCHMARKS / "speed.py"), "peers", "passes", *arguments],
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "left out" in shown
    assert "scoring pass / forward pass" in shown
    results = json.loads(output.read_text())
    lines = results["peers: DnCNN (quick)"]["lines"]
    assert lines["dattri CG"]["note"] == "left out"
    for name in ("ours", "gradients by vmap"):
        assert lines[name]["seconds"] > 0
        if sys.platform == "linux":
            assert lines[name]["bytes"] > 0


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ([{"note": "more than 9 s"}], {"note": "more than 9 s"}),
        (
            [{"note": "", "seconds": s, "bytes": 10 * s} for s in (3, 1, 2)],
            {"note": "", "seconds": 2, "all seconds": [3, 1, 2], "bytes": 30},
        ),
    ],
)
def test_speed_reports_medians_or_why_there_are_none(modules, outcomes, expected):
    assert modules[2].summarise(outcomes) == expected


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
    peers = modules[0]
    for name in ("captum", "captum.influence"):
        monkeypatch.setitem(sys.modules, name, None)
    scores, note = peers.answer(peers.captum_tracin, None)
    assert scores is None
    assert note == "not installed (captum.influence)"


def test_plain_gradients_agree_with_first_order_influence(modules, tmp_path):
    peers, fidelity, *_ = modules
    task = fidelity.denoising_task("gamma", quick=True)
    context = fidelity.Context(task, 1, False, fidelity.Journal(tmp_path / "scores"))
    plain = fidelity.peer(peers.gradient_dots, context, 0, (2,), "loss")
    ours = fidelity.METHODS["first order"].function(context, 0, (2,), "loss")
    assert np.corrcoef(plain, ours)[0, 1] > 0.9999


def test_retrain_runs_resumes_and_adds_to_its_results(retrain, tmp_path, capsys):
    output, cache = tmp_path / "retrain.json", tmp_path / "cache"
    tasks = ["digits symmetric 20 %", "table, 10 % wrong unit", "denoising blur"]
    arguments = [*tasks, "mnist1d clean", "--quick", "--seeds", "1"]
    arguments += ["--cache", str(cache), "--output", str(output)]
    retrain.main(arguments)
    shown = capsys.readouterr().out
    assert "mnist1d clean: left out, mnist1d is not installed" in shown
    assert "; cleanlab: left out, not installed (cleanlab.classification)" in shown
    assert "; cleanlab: left out, labels and 1-D targets only" in shown
    results = json.loads(output.read_text())
    assert list(results) == tasks
    for task, result in results.items():
        lines = {name: line for name, [line] in result["lines"].items()}
        for name, line in lines.items():
            assert np.isfinite([line["score"], line["loss"]]).all()
            kept_all = line["dropped"] == 0
            assert kept_all == (line["precision"] is None)
            if kept_all:
                assert line["loss"] == lines["none"]["loss"], name
        assert lines["oracle"]["dropped"] == lines["oracle"]["spoiled"] > 0
        assert lines["oracle"]["precision"] == lines["oracle"]["recall"] == 1
        equally_many = {"random", "highest loss", "EL2N", "data dropout"} & set(lines)
        assert len({lines[name]["dropped"] for name in equally_many}) == 1
        assert ("EL2N" in lines) == task.startswith("digits")
    journal = cache / "results-quick.jsonl"
    before = journal.read_bytes()
    retrain.main([*arguments, "--methods", "none|random|data"])
    retrain.main([*arguments, "--table"])
    assert journal.read_bytes() == before
    assert (
        capsys.readouterr().out.count("| digits symmetric 20 % | 1 | 150 | 30 |") == 2
    )


def test_retrain_as_a_script_keeps_its_splits(tmp_path):
    arguments = ["table clean", "--quick", "--seeds", "1", "--cache", str(tmp_path)]
    arguments += ["--methods", "data dropout"]
    subprocess.run(
        [sys.executable, str(BENCHMARKS / "retrain.py"), *arguments],
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=True,
    )
    assert json.loads((tmp_path / "results-quick.jsonl").read_text())["trainings"] == 6
    # joblib only warns of what it cannot write.
    assert len(list((tmp_path / "splits").rglob("output.pkl"))) == 5


def test_held_out_outputs_are_those_of_the_best_epoch_in_order(
    retrain, small_problem, tmp_path
):
    context = retrain.Context(small_problem, tmp_path)
    y = small_problem.train[1]
    outputs = context.held_out_outputs
    for (_, held_out), net in zip(
        context.folds, context.round_one.round_one_estimators_, strict=True
    ):
        probabilities = retrain.softmax(outputs[held_out].astype(float), axis=1)
        loss = log_loss(y[held_out], probabilities, labels=np.arange(10))
        assert loss == pytest.approx(min(net.history[:, "valid_loss"]), rel=1e-5)


def test_final_nets_share_their_weights_and_are_trained_once(
    retrain, small_problem, tmp_path, monkeypatch
):
    context = retrain.Context(small_problem, tmp_path)
    everything = np.ones(150, dtype=bool)
    first = context.result_of(everything)
    assert retrain.Context(small_problem, tmp_path).result_of(everything) == first | {
        "seconds of final training": pytest.approx(0, abs=60)
    }
    monkeypatch.setattr(retrain, "final_training", None)
    assert context.result_of(everything.copy()) is first


def test_random_rows_are_as_many_of_each_class(retrain, small_problem, tmp_path):
    context = retrain.Context(small_problem, tmp_path)
    dropped = np.random.default_rng(0).permutation(150) < 60
    context.round_one = SimpleNamespace(sample_mask_=~dropped)
    shuffled = ~retrain.random(context).kept
    labels = small_problem.labels
    np.testing.assert_array_equal(
        np.bincount(labels[shuffled], minlength=10),
        np.bincount(labels[dropped], minlength=10),
    )
    assert not np.array_equal(shuffled, dropped)


def test_rare_class_keeps_a_twentieth_and_most_of_its_labels(retrain):
    X, y = np.arange(4000), np.repeat(np.arange(10), 400)
    kept, given, spoiled = retrain.make_rare_and_flip(X, y, 0, label=8, rate=0.2)
    truth = y[kept]
    np.testing.assert_array_equal(np.bincount(truth), [400] * 8 + [20, 400])
    np.testing.assert_array_equal(given != truth, spoiled)
    assert spoiled.sum() == round(0.2 * 3620)
    assert np.mean(truth[given == 8] == 8) > 0.5


def test_one_class_is_half_wrong(retrain):
    y = np.repeat(np.arange(10), 40)
    _, given, spoiled = retrain.spoil_one_class(y, y, 0, label=3)
    np.testing.assert_array_equal(given != y, spoiled)
    np.testing.assert_array_equal(np.bincount(y[spoiled]), [0, 0, 0, 20])
    assert len(np.unique(given[spoiled])) > 5


def lines_of(*scores):
    return {seed: {"score": score} for seed, score in enumerate(scores)}


def test_paired_interval_is_that_of_scipy_over_the_common_seeds(retrain):
    first, second = lines_of(0.9, 0.8, 0.85), lines_of(0.7, 0.75, 0.6, 0.1)
    mean, half = retrain.paired_interval(first, second, "score")
    expected = stats.ttest_rel([0.9, 0.8, 0.85], [0.7, 0.75, 0.6]).confidence_interval()
    assert (mean - half, mean + half) == pytest.approx(tuple(expected))
    assert retrain.interval_cell(first, second, "score") == "+0.167 ± 0.26"
    assert retrain.interval_cell(first, {}, "score") == ""
    first = lines_of(0.9, 0.9, 0.91)
    assert retrain.interval_cell(first, second, "score").startswith("**+0.22 ± ")


def test_gap_closed(retrain):
    methods = {"none": lines_of(0.5), "auto": lines_of(0.7), "oracle": lines_of(0.9, 0)}
    assert retrain.gap_closed(methods, "auto", "score") == pytest.approx(0.5)
    assert np.isnan(retrain.gap_closed(methods, "data dropout", "score"))
    methods["oracle"] = lines_of(0.5)
    assert np.isnan(retrain.gap_closed(methods, "auto", "score"))
