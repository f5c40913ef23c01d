"""The experiments run whole, on small files of the formats they read."""

import hashlib
import importlib
import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image
from skimage import data as photographs
from torch.utils.data import TensorDataset

from sk_datadrop import DataDropoutClassifier, _round_one

pytest.importorskip("torchvision")
from torchvision import datasets, transforms

EXAMPLES = Path(__file__).parents[1] / "examples"
NAMES = ("_experiment", "cifar10_resnet", "bsd68_dncnn")
TINY = "--net resnet110 --depth 8 --width 4 --epochs 1 --batch-size 20 --device cpu"


@pytest.fixture
def modules(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield {name: importlib.import_module(name) for name in NAMES}
    for name in NAMES:
        del sys.modules[name]


@pytest.fixture
def before_training(monkeypatch, capsys):
    """What was printed before each training of round 1 and since the one before."""
    shown = []
    train_round = _round_one.train_round

    def listening(*args, **kwargs):
        shown.append(capsys.readouterr().out)
        return train_round(*args, **kwargs)

    monkeypatch.setattr(_round_one, "train_round", listening)
    return shown


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def small_images(n_rows):
    """Images (N, 32, 32, 3) of ten colours, dtype uint8, and their number."""
    rng = np.random.default_rng(0)
    labels = np.arange(n_rows) % 10
    colours = rng.integers(0, 255, size=(10, 1, 1, 3))
    images = colours[labels] + rng.integers(-20, 20, size=(n_rows, 32, 32, 3))
    return np.clip(images, 0, 255).astype(np.uint8), labels


@pytest.fixture
def cifar10(tmp_path, monkeypatch):
    """A folder of the files of CIFAR-10, with 20 rows each."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
        return md5(folder / name)

    images, labels = small_images(120)
    names = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
    digests = []
    for number, name in enumerate(names):
        of_file = slice(20 * number, 20 * number + 20)
        rows = images[of_file].transpose(0, 3, 1, 2).reshape(20, -1)
        content = {"data": rows, "labels": labels[of_file].tolist()}
        digests.append([name, write(name, content)])
    classes = [str(number) for number in range(10)]
    digest = write("batches.meta", {"label_names": classes})
    # torchvision goes on to check the files, against what they are here.
    monkeypatch.setattr(datasets.CIFAR10, "train_list", digests[:5])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", digests[5:])
    monkeypatch.setattr(
        datasets.CIFAR10, "meta", datasets.CIFAR10.meta | {"md5": digest}
    )
    return tmp_path


@pytest.fixture
def svhn(tmp_path, monkeypatch):
    """A folder of the files of SVHN, with 60 rows each; digit 0 has the label 10."""
    images, labels = small_images(60)
    content = {
        "X": images.transpose(1, 2, 3, 0),
        "y": np.where(labels == 0, 10, labels)[:, None].astype(np.uint8),
    }
    lists = {}
    for split in ("train", "test"):
        path = tmp_path / f"{split}_32x32.mat"
        scipy.io.savemat(path, content)
        lists[split] = ["", path.name, md5(path)]
    monkeypatch.setattr(datasets.SVHN, "split_list", lists)
    return tmp_path


@pytest.fixture
def folders(tmp_path):
    """Two folders of photographs, in several formats, gray and not."""
    train, test = tmp_path / "train", tmp_path / "test"
    for folder in (train, test):
        folder.mkdir()
    colours, gray = photographs.astronaut(), photographs.camera()
    Image.fromarray(colours[:48, 200:248]).save(train / "a.png")
    Image.fromarray(gray[200:248, 200:248]).save(train / "b.jpg")
    Image.fromarray(gray[100:140, 200:250]).save(train / "c.bmp")
    Image.fromarray(gray[300:333, 200:237]).save(test / "d.png")
    Image.fromarray(colours[200:220, 200:250]).save(test / "e.PNG")
    (train / "readme.txt").write_text("no image")
    return train, test


def figures(pattern, shown):
    found = re.search(pattern, shown)
    assert found, f"{pattern} not in\n{shown}"
    return [float(figure) for figure in found.groups()]


def test_cifar10(modules, cifar10, before_training, capsys):
    modules["cifar10_resnet"].main(
        f"--root {cifar10} {TINY} --n-rows 60 --label-noise 0.2 --cv 2 "
        "--drop-fraction 0.1".split()
    )
    assert "60 training rows, 12 with a wrong label" in before_training[0]
    assert "trainings" in before_training[0]
    shown = capsys.readouterr().out
    assert "dropped 6 of 60 rows (10.00%)" in shown
    hits, precision, recall = figures(
        r"(\d+) of them are among the 12 .* precision (\S+), recall (\S+)\n", shown
    )
    assert (precision, recall) == pytest.approx((hits / 6, hits / 12), abs=5e-4)
    assert "trainings: 2 of round 1, 0 of trials, 1 of round 2" in shown
    assert "accuracy on 20 test rows" in shown
    for arm in ("no dropout", "random drop", "data dropout"):
        [accuracy] = figures(rf"{arm} +(\S+)\n", shown)
        assert accuracy * 20 == pytest.approx(round(accuracy * 20))


def test_svhn(modules, svhn, before_training, capsys):
    modules["cifar10_resnet"].main(
        f"--dataset svhn --root {svhn} {TINY} --n-rows 30 --schedule cosine --cv 0.5 "
        f"--drop-fraction 0 --memory {svhn / 'memory'}".split()
    )
    assert "30 training rows, 0 with a wrong label" in before_training[0]
    shown = capsys.readouterr().out
    assert "dropped 0 of 30 rows" in shown
    assert "without dropout the net would be the same" in shown
    assert "spoiled" not in shown
    assert "trainings: 1 of round 1" in shown
    figures(r"data dropout +(\S+)\n", shown)


@pytest.mark.parametrize(
    ("name", "random"),
    [("cifar10", ["RandomCrop", "RandomHorizontalFlip"]), ("svhn", ["RandomCrop"])],
)
def test_images_are_augmented_in_training_only(name, random, modules, request):
    root = request.getfixturevalue(name)
    script = modules["cifar10_resnet"]
    rows, test = script.load_rows(
        script.parse_arguments(["--dataset", name, "--root", str(root)])
    )
    images, labels = small_images(120)
    mean, deviation = np.array(script.MEAN_AND_DEVIATION[name])[:, :, None, None]
    first = (images[0].transpose(2, 0, 1) / 255 - mean) / deviation
    for _ in range(5):
        np.testing.assert_allclose(rows[0][0], first, atol=1e-5)
    steps = [type(step).__name__ for step in rows.augmented.transform.transforms]
    assert steps == [*random, "ToTensor", "Normalize"]
    torch.manual_seed(0)
    in_training = rows.for_training()
    n_changed = sum(not torch.equal(in_training[i][0], rows[i][0]) for i in range(20))
    # One crop in 81 is the image itself.
    assert n_changed > 15
    np.testing.assert_array_equal(rows.targets, labels[: len(rows)])
    assert test.augmented is None


def test_stems(modules):
    images = torch.zeros(2, 3, 32, 32)
    sizes = {}
    for stem in ("3x3", "7x7"):
        net = modules["cifar10_resnet"].Resnet18(stem)
        assert net(images).shape == (2, 10)
        sizes[stem] = net.maxpool(net.conv1(images)).shape[2:]
    assert sizes == {"3x3": (32, 32), "7x7": (8, 8)}


def test_learning_rates(modules):
    share_of_rate = modules["cifar10_resnet"].share_of_rate
    steps = [
        share_of_rate(epoch, schedule="step", n_epochs=8, n_warm_up=1)
        for epoch in range(8)
    ]
    np.testing.assert_allclose(steps, [0.1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])
    cosine = [
        share_of_rate(epoch, schedule="cosine", n_epochs=4, n_warm_up=0)
        for epoch in range(5)
    ]
    np.testing.assert_allclose(cosine, [1, 0.853553, 0.5, 0.146447, 0], atol=1e-6)


def test_plain_net_is_round_two_of_dropping_nothing(modules, svhn, monkeypatch):
    script = modules["cifar10_resnet"]
    arguments = script.parse_arguments(
        f"--dataset svhn --root {svhn} {TINY} --n-rows 30 --cv 0.5 --drop-fraction 0 "
        "--seed 3".split()
    )
    rows, test = script.load_rows(arguments)
    rows = rows.with_targets(rows.targets)
    net = script.make_net(arguments)
    parameters = modules["_experiment"].dropout_parameters(arguments)
    cropped = []
    monkeypatch.setattr(
        transforms.RandomCrop, "forward", lambda self, image: cropped.append(0) or image
    )
    model = DataDropoutClassifier(net, **parameters).fit(rows)
    # Half of the rows in round 1, all of them in round 2, and none in scoring.
    assert len(cropped) == 15 + 30
    plain = modules["_experiment"].fit_net(net, rows, arguments.seed)
    assert len(cropped) == 15 + 30 + 30
    np.testing.assert_array_equal(
        plain.predict_proba(test), model.estimator_.predict_proba(test)
    )


def test_random_drop_keeps_the_class_mix(modules):
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    kept = np.random.default_rng(0).random(100) > 0.3
    shuffled = modules["_experiment"].random_mask(kept, labels, seed=0)
    assert not np.array_equal(kept, shuffled)
    np.testing.assert_array_equal(
        np.bincount(labels[kept]), np.bincount(labels[shuffled])
    )


@pytest.mark.parametrize("n_workers", [0, 2])
def test_loaders_name_how_they_start_processes(n_workers, modules):
    script = modules["cifar10_resnet"]
    arguments = script.parse_arguments(["--workers", str(n_workers), "--device", "cpu"])
    net = script.make_net(arguments).initialize()
    rows = TensorDataset(torch.zeros(4, 1), torch.arange(4))
    for training in (True, False):
        loader = net.get_iterator(rows, training=training)
        assert loader.num_workers == n_workers
        # None would be that of the process, and one of joblib's has its own.
        assert (loader.multiprocessing_context is None) == (n_workers == 0)


def test_numbers_and_names(modules):
    number_or_name = modules["_experiment"].number_or_name
    values = [number_or_name(text) for text in ("5", "0.2", "auto")]
    assert values == [5, 0.2, "auto"]
    assert isinstance(values[0], int)


def test_dncnn(modules, folders, before_training, capsys):
    train, test = folders
    modules["bsd68_dncnn"].main(
        f"--train {train} --test {test} --patch 16 --stride 8 --n-patches 40 "
        "--corrupt 0.25 --kind invert --depth 3 --width 4 --epochs 2 --batch-size 10 "
        "--device cpu --cv 2 --drop-fraction 0.2 --reopen".split()
    )
    assert "40 training rows, 10 with a spoiled target" in before_training[0]
    assert "trainings" in before_training[0]
    shown = capsys.readouterr().out
    assert "dropped 8 of 40 rows (20.00%)" in shown
    hits, precision = figures(r"(\d+) of them .* precision (\S+),", shown)
    assert precision == pytest.approx(hits / 8, abs=5e-4)
    lines = re.findall(r"^(d\.png|e\.PNG|mean of 2 images)(.*)$", shown, re.MULTILINE)
    table = np.array([line.split() for _, line in lines], dtype=float)
    assert table.shape == (3, 4)
    np.testing.assert_allclose(table[2], table[:2].mean(axis=0), atol=0.011)
    # 20 log10(255 / 25) = 20.17 dB is that of the noise, clipped nowhere.
    assert table[2, 0] == pytest.approx(20.17, abs=0.3)


@pytest.fixture
def patches_of(modules, folders):
    def load(*arguments):
        train, test = map(str, folders)
        script = modules["bsd68_dncnn"]
        arguments = ["--train", train, "--test", test, "--patch", "16", *arguments]
        return script.load_rows(script.parse_arguments(arguments))

    return load


def test_patches_are_cut_from_the_images(patches_of, folders):
    rows, spoiled = patches_of("--stride", "16")
    # Three by three of 48 x 48 pixels twice, two by three of 40 x 50.
    assert len(rows) == 9 + 9 + 6
    assert not spoiled.any()
    gray = np.array(Image.open(folders[0] / "c.bmp"))
    np.testing.assert_array_equal(rows[-1][1][0] * 255, gray[16:32, 32:48])


def test_noise_belongs_to_the_patch(patches_of):
    rows, _ = patches_of("--sigma", "50")
    again, _ = patches_of("--sigma", "50", "--reopen")
    noise = [torch.sub(*rows[number]).numpy() for number in range(len(rows))]
    for number in range(len(rows)):
        for part, same in zip(rows[number], again[number], strict=True):
            assert torch.equal(part, same)
    assert np.std(noise) == pytest.approx(50 / 255, rel=0.05)
    assert np.abs(np.corrcoef(np.reshape(noise, (len(rows), -1)))[0, 1:]).max() < 0.3


def test_targets_are_spoiled_but_not_their_noisy_images(patches_of):
    clean, _ = patches_of()
    rows, spoiled = patches_of("--corrupt", "0.5", "--kind", "invert")
    assert spoiled.sum() == round(0.5 * len(rows))
    for number in range(len(rows)):
        (noisy, target), (same, truth) = rows[number], clean[number]
        assert torch.equal(noisy, same)
        expected = 1 - truth if spoiled[number] else truth
        torch.testing.assert_close(target, expected)


def test_pairs_are_turned_together_in_training_only(patches_of):
    rows, _ = patches_of()
    noise = torch.sub(*rows[0])
    ways = [torch.rot90(m, k, (1, 2)) for m in (noise, noise.flip(2)) for k in range(4)]
    seen = set()
    for _ in range(40):
        assert torch.equal(torch.sub(*rows[0]), noise)
        turned = torch.sub(*rows.for_training()[0])
        [way] = [number for number in range(8) if torch.equal(turned, ways[number])]
        seen.add(way)
    assert len(seen) > 4
    rows, _ = patches_of("--no-augment")
    assert torch.equal(torch.sub(*rows.for_training()[0]), noise)


def test_folders_without_images_are_refused(modules, folders, tmp_path):
    script = modules["bsd68_dncnn"]
    with pytest.raises(SystemExit, match="no png, jpg or bmp files in"):
        script.image_files(tmp_path)
    train, test = map(str, folders)
    arguments = ["--train", train, "--test", test, "--patch", "49"]
    with pytest.raises(SystemExit, match="no image has 49 pixels in both directions"):
        script.load_rows(script.parse_arguments(arguments))


@pytest.mark.parametrize("text", ["1", "-0.1"])
def test_shares_out_of_range_are_refused(text, modules, capsys):
    with pytest.raises(SystemExit):
        modules["cifar10_resnet"].parse_arguments(["--label-noise", text])
    assert "must lie in [0, 1)" in capsys.readouterr().err


def test_report_counts_trials(modules, capsys):
    class Fitted:
        sample_mask_ = np.array([True, False, False, True])
        round_one_estimators_ = [None] * 3
        cv_results_ = {"objective": np.zeros((3, 3))}
        timings_ = {"round_one": 2.0}

    modules["_experiment"].print_dropped(Fitted, np.array([True, True, False, False]))
    shown = capsys.readouterr().out
    assert "precision 0.500, recall 0.500" in shown
    assert "3 of round 1, 6 of trials, 1 of round 2; seconds: round_one 2.0" in shown
