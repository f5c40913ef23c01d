"""The benchmarks run whole on tiny data, without other libraries."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "examples" / "benchmarks"


@pytest.fixture
def modules(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    names = ("_peers", "fidelity", "speed")
    yield [importlib.import_module(name) for name in names]
    for name in names:
        del sys.modules[name]


@pytest.fixture
def fidelity(modules):
    return modules[1]


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
    peers, fidelity, _ = modules
    task = fidelity.denoising_task("gamma", quick=True)
    context = fidelity.Context(task, 1, False, fidelity.Journal(tmp_path / "scores"))
    plain = fidelity.peer(peers.gradient_dots, context, 0, (2,), "loss")
    ours = fidelity.METHODS["first order"].function(context, 0, (2,), "loss")
    assert np.corrcoef(plain, ours)[0, 1] > 0.9999
