"""The progress bar, the line at the end, and what they leave alone."""

import pickle
import re

import numpy as np
import pytest
from skorch.callbacks import Callback, PrintLog, ProgressBar
from tqdm.auto import tqdm

from sk_datadrop import DataDropoutClassifier, DataDropoutTransformer, drop_curve
from sk_datadrop._progress import Progress


class Bar(tqdm):
    """Shows every change, and keeps what it showed."""

    bars = []

    def __init__(self, *args, **options):
        self.shown = []
        super().__init__(*args, mininterval=0, **options)
        self.bars.append(self)

    def refresh(self, *args, **options):
        self.shown.append((self.desc.removesuffix(": "), self.n / self.total))
        super().refresh(*args, **options)


@pytest.fixture
def bars(monkeypatch):
    monkeypatch.setattr(Bar, "bars", [])
    monkeypatch.setattr("tqdm.auto.tqdm", Bar)
    return Bar.bars


class EndAfter(Callback):
    """Ends a training early."""

    def __init__(self, n_epochs):
        self.n_epochs = n_epochs

    def on_epoch_end(self, net, **kwargs):
        if len(net.history) == self.n_epochs:
            raise KeyboardInterrupt


class FailInRoundTwo(Callback):
    """Fails where all samples are kept."""

    def on_epoch_end(self, net, dataset_train=None, **kwargs):
        if len(dataset_train) == 90:
            raise ValueError("no more")


def check_bar(bar):
    """It never went back, ended full, and is closed."""
    shares = np.array([share for _, share in bar.shown])
    assert (np.diff(shares) >= 0).all()
    assert shares[0] == 0
    assert shares[-1] == pytest.approx(1)
    assert bar.disable


def texts(bar):
    return list(dict.fromkeys(text for text, _ in bar.shown))


def test_one_bar_moves_by_the_epoch(classifier, blobs, bars):
    DataDropoutClassifier(classifier, cv=2, verbose=1, random_state=0).fit(*blobs)
    [bar] = bars
    check_bar(bar)
    epochs = [f"epoch {k} of 5" for k in range(1, 6)]
    of_splits = [
        f"round 1, split {split} of 2, {what}"
        for split in (1, 2)
        for what in [*epochs, "scoring"]
    ]
    assert texts(bar) == ["", *of_splits, *[f"round 2, {epoch}" for epoch in epochs]]
    # Nothing was jumped over, except that samples dropped need no time.
    assert bar.initial == pytest.approx(0, abs=0.01)


def test_selectors_have_no_round_two(classifier, blobs, bars):
    DataDropoutTransformer(classifier, cv=2, verbose=1, random_state=0).fit(*blobs)
    check_bar(bars[0])
    assert texts(bars[0])[-1] == "round 1, split 2 of 2, scoring"


def test_epochs_that_do_not_take_place_are_jumped_over(classifier, blobs, bars):
    net = classifier.set_params(max_epochs=50, callbacks=[EndAfter(5)])
    DataDropoutClassifier(net, cv=2, verbose=1, random_state=0).fit(*blobs)
    check_bar(bars[0])
    assert bars[0].initial > 0.7


def test_what_memory_has_is_jumped_over(classifier, blobs, tmp_path, bars):
    model = DataDropoutClassifier(
        classifier, cv=2, verbose=1, random_state=0, memory=str(tmp_path)
    )
    model.fit(*blobs)
    model.fit(*blobs)
    check_bar(bars[1])
    assert "round 1, from memory" in texts(bars[1])
    share = dict(bars[1].shown)["round 2, epoch 1 of 5"]
    assert share > 0.5
    assert bars[1].initial == pytest.approx(share, abs=0.2)


def test_workers_move_it_by_the_split(classifier, blobs, bars):
    model = DataDropoutClassifier(classifier, cv=2, random_state=0, n_jobs=2)
    model.set_params(verbose=1).fit(*blobs)
    [bar] = bars
    check_bar(bar)
    done = [f"round 1, {k} of 2 done" for k in range(3)]
    assert texts(bar)[:5] == ["", *done, "round 2, epoch 1 of 5"]
    assert 0 < dict(bar.shown)[done[1]] < dict(bar.shown)[done[2]] < 1


@pytest.mark.parametrize("rule", ["auto", "harmful"])
def test_auto_is_planned_from_the_start(classifier, blobs, bars, rule):
    X, y = blobs
    y = np.where(np.arange(90) % 4 == 0, (y + 1) % 3, y)
    classifier.set_params(max_epochs=15)
    model = DataDropoutClassifier(classifier, cv=3, verbose=1, random_state=0)
    model.set_params(drop_fraction=rule).fit(X, y)
    check_bar(bars[0])
    assert any("without" in text for text in texts(bars[0])) == (rule == "auto")
    assert bars[0].initial < 0.2


def test_a_drop_curve_has_one_bar_for_all_runs(classifier, blobs, bars, capsys):
    model = DataDropoutClassifier(classifier, cv=2, verbose=1)
    drop_curve(model, *blobs, fractions=[0.1], n_repeats=1, cv=2, random_state=0)
    [bar] = bars
    check_bar(bar)
    assert "run 2 of 2, round 1, split 1 of 2, epoch 1 of 5" in texts(bar)
    assert re.search(r"measured 2 runs; took \d+\.\d s\n", capsys.readouterr().out)


def test_workers_move_that_by_the_run(bars):
    with Progress(1, n_parts=2, name="run") as bar:
        bar.show_parts()
        for _ in range(2):
            bar.count_part()
    check_bar(bars[0])
    assert texts(bars[0]) == ["", *[f"{k} of 2 runs done" for k in range(3)]]


def test_an_error_closes_the_bar(classifier, blobs, bars, capsys):
    net = classifier.set_params(callbacks=[FailInRoundTwo()])
    model = DataDropoutClassifier(net, cv=2, drop_fraction=0.0, verbose=1)
    with pytest.raises(ValueError, match="round 2: no more"):
        model.fit(*blobs)
    assert bars[0].disable
    assert bars[0].shown[-1][1] < 1
    assert not capsys.readouterr().out


def test_one_line_stays(classifier, blobs, capsys):
    model = DataDropoutClassifier(classifier, cv=2, verbose=1, random_state=0)
    model.fit(*blobs)
    shown = capsys.readouterr()
    assert re.fullmatch(re.escape(model.summary_) + r"; took \d+\.\d s\n", shown.out)
    # The bar is wiped out.
    assert not shown.err.split("\r")[-1].strip()


def test_silent_by_default(classifier, blobs, bars, capsys):
    DataDropoutClassifier(classifier, cv=2, random_state=0).fit(*blobs)
    assert not bars
    assert capsys.readouterr() == ("", "")


class TestWithSkorch:
    def test_the_table_of_the_net_stands_above_the_bar(self, classifier, blobs, capsys):
        model = DataDropoutClassifier(classifier, cv=2, verbose=2, random_state=0)
        model.fit(*blobs)
        lines = capsys.readouterr().out.splitlines()
        assert sum("train_loss" in line for line in lines) == 3
        assert len(lines) == 3 * (2 + 5) + 1
        logs = [cb for _, cb in model.estimator_.callbacks_ if isinstance(cb, PrintLog)]
        assert [log.sink for log in logs] == [print]

    def test_its_own_bar_works_beside(self, classifier, blobs, capsys):
        net = classifier.set_params(callbacks=[ProgressBar(detect_notebook=False)])
        model = DataDropoutClassifier(net, cv=2, verbose=1, random_state=0)
        model.fit(*blobs)
        shown = capsys.readouterr().err
        # Six batches, in a bar below ours.
        assert "epoch 1 of 5" in shown
        assert "0/6 [" in shown

    def test_nets_do_not_know_of_it(self, classifier, blobs):
        model = DataDropoutClassifier(classifier, cv=2, random_state=0)
        silent = model.fit(*blobs).estimator_
        names = [name for name, _ in silent.callbacks_]
        seen = model.set_params(verbose=1).fit(*blobs).estimator_
        assert [name for name, _ in seen.callbacks_] == names
        assert vars(seen).keys() == vars(silent).keys()
        assert seen.get_params().keys() == silent.get_params().keys()
        assert pickle.loads(pickle.dumps(model)).n_dropped_ == model.n_dropped_
