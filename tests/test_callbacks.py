"""Callbacks written for one training by skorch, in a fit that trains several nets."""

import tempfile
from functools import partial

import numpy as np
import pytest
import torch
from conftest import MLP
from skorch import NeuralNetClassifier
from skorch.callbacks import (
    Callback,
    Checkpoint,
    EarlyStopping,
    EpochScoring,
    Freezer,
    LoadInitState,
    LRScheduler,
    PrintLog,
    TensorBoard,
    TrainEndCheckpoint,
    WandbLogger,
)
from torch.optim import lr_scheduler

from sk_datadrop import DataDropoutClassifier, drop_curve
from sk_datadrop._callbacks import needs_validation
from sk_datadrop._samples import Samples
from sk_datadrop._training import Recipe, train


class NoTraining(Callback):
    """Fails as soon as a training begins: a refused fit must not have trained."""

    def on_epoch_begin(self, net, **kwargs):
        raise AssertionError("trained before the input was checked")


def weights(net):
    return torch.cat([p.detach().reshape(-1) for p in net.module_.parameters()])


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """The folder for temporary files, empty."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def names_in(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


class TestFiles:
    def trained(self, net, blobs, *, keeps_files=False):
        X, y = blobs
        recipe = Recipe("x", seed=0, keeps_files=keeps_files)
        half = Samples(X[60:], y[60:])
        return train(net, Samples(X[:60], y[:60]), recipe, validation=half)

    @pytest.mark.parametrize(
        "checkpoint",
        [
            partial(Checkpoint, load_best=True),
            partial(Checkpoint, f_params="{last_epoch[epoch]}.pt", load_best=True),
            partial(Checkpoint, fn_prefix="deep/", load_best=True),
            partial(Checkpoint, f_pickle="net.pkl"),
            TrainEndCheckpoint,
        ],
    )
    def test_have_a_folder_that_ends_with_the_training(
        self, checkpoint, classifier, blobs, scratch, tmp_path, monkeypatch
    ):
        (tmp_path / "here" / "deep").mkdir(parents=True)
        monkeypatch.chdir(tmp_path / "here")
        expected = self.trained(
            classifier.set_params(callbacks=[checkpoint()]), blobs, keeps_files=True
        )
        written = names_in(tmp_path / "here")
        assert len(written) >= 3
        monkeypatch.chdir(tmp_path)
        net = self.trained(classifier, blobs)
        assert torch.equal(weights(net), weights(expected))
        assert names_in(tmp_path) == [f"here/{name}" for name in written]
        assert list(scratch.glob("sk_datadrop-*")) == []

    def test_absolute_paths_are_left_alone(self, classifier, blobs, tmp_path, scratch):
        kept = tmp_path / "params.pt"
        kept.write_text("of the user")
        checkpoint = Checkpoint(f_params=str(kept), load_best=True)
        net = self.trained(classifier.set_params(callbacks=[checkpoint]), blobs)
        assert kept.read_text() == "of the user"
        assert dict(net.callbacks_)["Checkpoint"].f_params == str(kept)

    def test_settings_are_those_of_the_user_again(self, classifier, blobs, tmp_path):
        callbacks = [Checkpoint(dirname=str(tmp_path)), TrainEndCheckpoint()]
        net = self.trained(classifier.set_params(callbacks=callbacks), blobs)
        found = dict(net.callbacks_)
        assert found["Checkpoint"].dirname == str(tmp_path)
        assert found["TrainEndCheckpoint"].dirname == ""
        assert found["TrainEndCheckpoint"].checkpoint_.dirname == ""

    def test_files_of_an_earlier_fit_are_not_where_round_one_begins(
        self, classifier, blobs, tmp_path
    ):
        checkpoint = Checkpoint(dirname=str(tmp_path))
        classifier.set_params(callbacks=[checkpoint, LoadInitState(checkpoint)])
        first = self.trained(classifier, blobs, keeps_files=True)
        assert names_in(tmp_path)
        again = self.trained(classifier, blobs)
        assert torch.equal(weights(again), weights(first))
        onward = self.trained(classifier, blobs, keeps_files=True)
        assert len(onward.history) > len(first.history)

    def test_weights_trained_elsewhere_are_loaded(self, classifier, blobs, tmp_path):
        checkpoint = Checkpoint(dirname=str(tmp_path))
        classifier.set_params(callbacks=[checkpoint])
        n_epochs = len(self.trained(classifier, blobs, keeps_files=True).history)
        classifier.set_params(callbacks=[LoadInitState(checkpoint)])
        assert len(self.trained(classifier, blobs).history) > n_epochs

    def test_weights_in_files_are_warned_of(self, classifier, blobs):
        callbacks = [LoadInitState(Checkpoint(dirname="nowhere"))]
        model = DataDropoutClassifier(classifier.set_params(callbacks=callbacks), cv=2)
        with pytest.warns(UserWarning, match="LoadInitState starts a training") as seen:
            model.fit(*blobs)
        assert seen[0].filename == __file__


class KeepsFiles(Callback):
    def on_epoch_end(self, net, **kwargs):
        net.save_params("best.pt")

    def on_train_end(self, net, **kwargs):
        net.load_params("best.pt")


def test_checkpoints_of_trainings_side_by_side(classifier, blobs, tmp_path):
    X, y = blobs
    y = np.where(np.arange(90) < 15, (y + 1) % 3, y)
    checkpoint = Checkpoint(dirname=str(tmp_path), load_best=True)
    classifier.set_params(callbacks=[checkpoint], max_epochs=8)
    one, two = (
        DataDropoutClassifier(
            classifier, cv=2, drop_fraction="auto", n_jobs=n_jobs, random_state=0
        ).fit(X, y)
        for n_jobs in (None, 2)
    )
    np.testing.assert_array_equal(two.influence_, one.influence_)
    np.testing.assert_array_equal(two.sample_mask_, one.sample_mask_)
    found, expected = (m.cv_results_["objective"] for m in (two, one))
    np.testing.assert_array_equal(found, expected)
    assert len(expected[0]) > 1
    # Of round 2.
    assert "params.pt" in names_in(tmp_path)


def test_curves_write_nothing(classifier, blobs, tmp_path):
    callbacks = [Checkpoint(monitor=None, dirname=str(tmp_path))]
    model = DataDropoutClassifier(classifier.set_params(callbacks=callbacks), cv=2)
    drop_curve(model, *blobs, fractions=[0.1], n_repeats=1, cv=2, random_state=0)
    assert names_in(tmp_path) == []


def test_files_of_own_callbacks_are_refused_side_by_side(classifier, blobs):
    classifier.set_params(callbacks=[KeepsFiles(), NoTraining()])
    message = "callback KeepsFiles saves and loads files, .* Set n_jobs=None"
    with pytest.raises(ValueError, match=message):
        DataDropoutClassifier(classifier, n_jobs=2).fit(*blobs)
    with pytest.raises(AssertionError, match="trained before"):
        DataDropoutClassifier(classifier).fit(*blobs)


def read_valid_loss(net):
    return net.history[-1, "valid_loss"]


def through_another(net):
    return -read_valid_loss(net)


class Reads(Callback):
    def on_epoch_end(self, net, **kwargs):
        self.last_ = net.history[-1]["valid_acc"]


class ReadsInHelper(Callback):
    def best(self, net):
        return min(net.history[:, "valid_loss"])

    def on_train_end(self, net, **kwargs):
        self.best_ = self.best(net)


class ReadsByPhase(Callback):
    def on_epoch_end(self, net, **kwargs):
        for phase in ("train", "valid"):
            self.last_ = net.history[-1, f"{phase}_loss"]


class CallsAnother(Callback):
    def on_epoch_end(self, net, **kwargs):
        self.last_ = through_another(net)


class TakesDataset(Callback):
    def on_epoch_end(self, net, dataset_valid=None, **kwargs):
        self.n_ = len(dataset_valid)


class TakesKeyword(Callback):
    def on_epoch_end(self, net, **kwargs):
        self.n_ = len(kwargs["dataset_valid"])


class Inherits(Reads):
    pass


class AsksHistory(Callback):
    def on_epoch_end(self, net, **kwargs):
        if "valid_loss" in net.history[-1]:
            self.last_ = net.history[-1, "valid_loss"]


class AsksByGet(Callback):
    def on_epoch_end(self, net, **kwargs):
        self.last_ = net.history[-1].get("valid_loss")


class AsksDataset(Callback):
    def on_epoch_end(self, net, dataset_valid=None, **kwargs):
        if dataset_valid is not None:
            self.last_ = net.history[-1, "valid_loss"]


class Catches(Callback):
    def on_epoch_end(self, net, **kwargs):
        try:
            self.last_ = net.history[-1, "valid_loss"]
        except KeyError:
            self.last_ = None


class Records(Callback):
    def on_epoch_end(self, net, **kwargs):
        net.history.record("valid_auc", 1.0)


class PassesOn(EpochScoring):
    def on_epoch_end(self, net, dataset_train, dataset_valid, **kwargs):
        super().on_epoch_end(net, dataset_train, dataset_valid=dataset_valid, **kwargs)


class OfTraining(Callback):
    """Validates nothing: valid_loss is not read."""

    def on_epoch_end(self, net, **kwargs):
        self.last_ = net.history[-1, "train_loss"]


class NetThatReads(NeuralNetClassifier):
    def on_epoch_end(self, net, **kwargs):
        super().on_epoch_end(net, **kwargs)
        self.last_ = self.history[-1, "valid_loss"]


def lambda_of(value):
    return lambda net: net.history[-1, "valid_loss_best"] > value


NEEDY = [
    Reads(),
    ReadsInHelper(),
    ReadsByPhase(),
    CallsAnother(),
    TakesDataset(),
    TakesKeyword(),
    Inherits(),
    EarlyStopping(),
    Checkpoint(monitor=lambda_of(0)),
    Checkpoint(monitor=partial(through_another)),
    LRScheduler(lr_scheduler.ReduceLROnPlateau, monitor=read_valid_loss),
    EpochScoring(lambda net, X, y: read_valid_loss(net), on_train=True, name="x"),
    Freezer("*", at=lambda net: net.history[-1, "valid_loss"] < 1),
]
CONTENT = [
    AsksHistory(),
    AsksByGet(),
    AsksDataset(),
    Catches(),
    Records(),
    PassesOn("accuracy"),
    OfTraining(),
    PrintLog(),
    EpochScoring("accuracy"),
    EpochScoring(lambda net, X, y: read_valid_loss(net), name="x"),
    LRScheduler(lr_scheduler.StepLR, step_size=1),
    Checkpoint(monitor=None),
    TrainEndCheckpoint(),
]


def name_of(callback):
    return type(callback).__name__


class Opens(Callback):
    """Writes to a file of its own per training."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_begin(self, net, **kwargs):
        folder = self.folder
        self.file_ = tempfile.NamedTemporaryFile("w", dir=folder, delete=False)  # noqa: SIM115

    def on_epoch_end(self, net, **kwargs):
        for value in net.history[-1].values():
            if isinstance(value, float):
                self.file_.write(f"{value}\n")

    def on_train_end(self, net, **kwargs):
        self.file_.close()
        del self.file_


class Run:
    """As those of wandb: all copies are the run itself."""

    def __init__(self, dir):
        self.dir, self.logged = dir, []

    def watch(self, module):
        self.logged.append("watch")

    def log(self, values):
        self.logged.append(sorted(values))

    def __deepcopy__(self, memo):
        return self


class TestLoggers:
    def test_an_open_writer_is_refused(self, classifier, blobs, tmp_path):
        with open(tmp_path / "log", "w") as file:
            net = classifier.set_params(callbacks=[NoTraining(), TensorBoard(file)])
            message = "no copy: callback TensorBoard .*cannot pickle.*on_train_begin"
            with pytest.raises(ValueError, match=message):
                DataDropoutClassifier(net, cv=2).fit(*blobs)

    def test_other_parameters_are_told_without_a_callback(self, classifier, blobs):
        net = classifier.set_params(module__activation=(i for i in "a"))
        with pytest.raises(ValueError, match="net has no copy .cannot pickle"):
            DataDropoutClassifier(net, cv=2).fit(*blobs)

    def test_one_that_opens_it_per_training_writes_in_all(
        self, classifier, blobs, tmp_path
    ):
        net = classifier.set_params(callbacks=[Opens(str(tmp_path))])
        model = DataDropoutClassifier(net, cv=2, random_state=0).fit(*blobs)
        logs = [path.read_text() for path in tmp_path.iterdir()]
        assert len(logs) == 3
        # Round 2 keeps all samples: nothing was withheld.
        assert "valid_loss" not in model.estimator_.history[-1]

    @pytest.mark.parametrize("save_model", [False, True])
    def test_a_run_that_all_share(self, classifier, blobs, tmp_path, save_model):
        run = Run(tmp_path)
        net = classifier.set_params(callbacks=[WandbLogger(run, save_model=save_model)])
        model = DataDropoutClassifier(net, cv=2, random_state=0).fit(*blobs)
        assert run.logged.count("watch") == 3
        # Weights are saved where the validation loss is lowest: round 2 needs one.
        assert ("valid_loss" in model.estimator_.history[-1]) == save_model
        assert (tmp_path / "best_model.pth").exists() == save_model


class TestValidation:
    @pytest.mark.parametrize("callback", NEEDY, ids=name_of)
    def test_is_needed(self, callback, classifier):
        net = classifier.set_params(callbacks=[callback]).initialize()
        assert needs_validation(net) == [type(callback).__name__]

    @pytest.mark.parametrize("callback", CONTENT, ids=name_of)
    def test_is_not_needed(self, callback, classifier):
        net = classifier.set_params(callbacks=[callback]).initialize()
        assert needs_validation(net) == []

    def test_is_needed_by_a_method_of_the_net(self):
        net = NetThatReads(MLP, criterion=torch.nn.CrossEntropyLoss).initialize()
        assert needs_validation(net) == ["NetThatReads"]
        plain = NeuralNetClassifier(MLP, criterion=torch.nn.CrossEntropyLoss)
        assert needs_validation(plain.initialize()) == []

    @pytest.mark.parametrize("callback", [Reads(), TakesDataset()], ids=name_of)
    def test_round_two_has_validation_samples_for_callbacks_that_read_them(
        self, callback, classifier, blobs
    ):
        classifier.set_params(callbacks=[callback])
        model = DataDropoutClassifier(classifier, cv=2, random_state=0).fit(*blobs)
        assert "valid_loss" in model.estimator_.history[-1]

    def test_without_any_is_refused(self, classifier, blobs):
        classifier.set_params(callbacks=[Reads(), NoTraining()], train_split=None)
        message = "callback Reads watches a validation quantity, but round 2 has no"
        with pytest.raises(ValueError, match=message):
            DataDropoutClassifier(classifier).fit(*blobs)


class Hidden(Callback):
    """Nobody could see that it reads a validation column."""

    def on_epoch_end(self, net, **kwargs):
        self.last_ = net.history[-1, "".join(["val", "id_loss"])]


def test_what_fails_in_round_two_names_it_and_loses_nothing(classifier, blobs):
    model = DataDropoutClassifier(classifier.set_params(callbacks=[Hidden()]), cv=2)
    message = "round 2: the net or a callback raised KeyError: .*no validation samples"
    with pytest.raises(ValueError, match=message) as caught:
        model.fit(*blobs)
    assert "Round 1 is done" in caught.value.__notes__[0]
    assert model.sample_mask_.shape == model.influence_.shape == (90,)
    assert not hasattr(model, "estimator_")


def one_cycle(**options):
    return LRScheduler(lr_scheduler.OneCycleLR, max_lr=0.1, **options)


class Stops(Callback):
    def on_epoch_end(self, net, **kwargs):
        if len(net.history) == 2:
            raise KeyboardInterrupt


class TestSchedules:
    """90 samples make 6 batches of 16, in each of 5 epochs."""

    @pytest.mark.parametrize(
        ("schedule", "n_steps"),
        [
            (one_cycle(total_steps=29, step_every="batch"), 30),
            (one_cycle(epochs=5, steps_per_epoch=5, step_every="batch"), 30),
            (one_cycle(total_steps=4), 5),
            (LRScheduler(lr_scheduler.LambdaLR, lr_lambda=[1, 0.1].__getitem__), 5),
        ],
    )
    def test_that_end_too_early_are_refused(self, schedule, n_steps, classifier, blobs):
        classifier.set_params(callbacks=[schedule, NoTraining()])
        message = rf"LRScheduler fails within the {n_steps} steps .* all 90 samples"
        with pytest.raises(ValueError, match=message):
            DataDropoutClassifier(classifier).fit(*blobs)

    @pytest.mark.parametrize(
        "callbacks",
        [
            [one_cycle(total_steps=30, step_every="batch")],
            [one_cycle(total_steps=5)],
            [one_cycle(total_steps=29, step_every="batch"), EarlyStopping()],
            [one_cycle(total_steps=29, step_every="batch"), Stops()],
            [LRScheduler(lr_scheduler.CosineAnnealingLR, T_max=2)],
            [LRScheduler(lr_scheduler.ReduceLROnPlateau)],
            ["WarmRestartLR"],
        ],
    )
    def test_that_suffice_are_trained(self, callbacks, classifier, blobs):
        callbacks = [LRScheduler(c) if isinstance(c, str) else c for c in callbacks]
        classifier.set_params(callbacks=[*callbacks, NoTraining()])
        with pytest.raises(AssertionError, match="trained before"):
            DataDropoutClassifier(classifier).fit(*blobs)

    def test_last_batches_that_are_dropped_do_not_count(self, classifier, blobs):
        schedule = one_cycle(total_steps=25, step_every="batch")
        classifier.set_params(callbacks=[schedule], iterator_train__drop_last=True)
        model = DataDropoutClassifier(classifier, cv=2, random_state=0).fit(*blobs)
        assert len(model.estimator_.history) == 5
