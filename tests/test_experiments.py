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
from joblib.externals.loky import get_reusable_executor
from PIL import Image
from skimage import data as photographs
from torch import nn
from torch.utils.data import TensorDataset

from sk_datadrop import DataDropoutClassifier

pytest.importorskip("torchvision")
from torchvision import datasets, transforms

EXAMPLES = Path(__file__).parents[1] / "examples"
NAMES = ("_experiment", "_cifar_resnet", "cifar10_resnet", "bsd68_dncnn")
TINY = "--net resnet110 --depth 8 --width 4 --epochs 1 --batch-size 20 --device cpu"


@pytest.fixture
def modules(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield {name: importlib.import_module(name) for name in NAMES}
    for name in NAMES:
        del sys.modules[name]


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def small_images(n_samples):
    """Make images (N, 32, 32, 3) of ten colours, dtype uint8, and their numbers."""
    rng = np.random.default_rng(0)
    labels = np.arange(n_samples) % 10
    colours = rng.integers(0, 255, size=(10, 1, 1, 3))
    images = colours[labels] + rng.integers(-20, 20, size=(n_samples, 32, 32, 3))
    return np.clip(images, 0, 255).astype(np.uint8), labels


@pytest.fixture
def cifar10(tmp_path, monkeypatch):
    """Folder of the files of CIFAR-10, with 20 images each."""
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
        pixels = images[of_file].transpose(0, 3, 1, 2).reshape(20, -1)
        content = {"data": pixels, "labels": labels[of_file].tolist()}
        digests.append([name, write(name, content)])
    classes = [str(number) for number in range(10)]
    digest = write("batches.meta", {"label_names": classes})
    # torchvision still checks the files, but against the digests of these.
    monkeypatch.setattr(datasets.CIFAR10, "train_list", digests[:5])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", digests[5:])
    monkeypatch.setattr(
        datasets.CIFAR10, "meta", datasets.CIFAR10.meta | {"md5": digest}
    )
    return tmp_path


@pytest.fixture
def svhn(tmp_path, monkeypatch):
    """Folder of the files of SVHN, 60 images each; digit 0 has the label 10."""
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
    """Two folders of photographs in several formats, gray or in colour."""
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


def test_cifar10(modules, cifar10, capsys):
    modules["cifar10_resnet"].main(
        f"--root {cifar10} {TINY} --n-samples 60 --label-noise 0.2 --cv 2 "
        "--drop-fraction 0.1".split()
    )
    shown = capsys.readouterr().out
    assert "60 training samples, 12 with a wrong label" in shown
    assert "dropped 6 of 60 samples (10.00%)" in shown
    hits, precision, recall = figures(
        r"(\d+) of them are among the 12 .* precision (\S+), recall (\S+)\n", shown
    )
    assert (precision, recall) == pytest.approx((hits / 6, hits / 12), abs=5e-4)
    assert "trainings: 2 of round 1, 0 of candidates, 1 of round 2" in shown
    assert "accuracy on 20 test samples" in shown
    for arm in ("no dropout", "random drop", "data dropout"):
        [accuracy] = figures(rf"{arm} +(\S+)\n", shown)
        assert accuracy * 20 == pytest.approx(round(accuracy * 20))


def test_svhn(modules, svhn, capsys):
    modules["cifar10_resnet"].main(
        f"--dataset svhn --root {svhn} {TINY} --n-samples 30 --schedule cosine "
        f"--cv 0.5 --drop-fraction 0 --memory {svhn / 'memory'}".split()
    )
    shown = capsys.readouterr().out
    assert "30 training samples, 0 with a wrong label" in shown
    assert "dropped 0 of 30 samples" in shown
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
    samples, test = script.load_samples(
        script.parse_arguments(["--dataset", name, "--root", str(root)])
    )
    images, labels = small_images(120)
    mean, deviation = np.array(script.MEAN_AND_DEVIATION[name])[:, :, None, None]
    first = (images[0].transpose(2, 0, 1) / 255 - mean) / deviation
    for _ in range(5):
        np.testing.assert_allclose(samples[0][0], first, atol=1e-5)
    steps = [type(step).__name__ for step in samples.augmented.transform.transforms]
    assert steps == [*random, "ToTensor", "Normalize"]
    torch.manual_seed(0)
    in_training = modules["_experiment"].augmented(samples, None)
    n_changed = sum(
        not torch.equal(in_training[i][0], samples[i][0]) for i in range(20)
    )
    # One crop in 81 is the image itself.
    assert n_changed > 15
    np.testing.assert_array_equal(samples.targets, labels[: len(samples)])
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
        f"--dataset svhn --root {svhn} {TINY} --n-samples 30 --cv 0.5 "
        "--drop-fraction 0 --seed 3".split()
    )
    samples, test = script.load_samples(arguments)
    net = script.make_net(arguments)
    parameters = modules["_experiment"].dropout_parameters(arguments)
    cropped = []
    monkeypatch.setattr(
        transforms.RandomCrop, "forward", lambda self, image: cropped.append(0) or image
    )
    model = DataDropoutClassifier(net, **parameters).fit(samples)
    # Round 1 crops half of the images, round 2 all of them, and scoring none.
    assert len(cropped) == 15 + 30
    experiment = modules["_experiment"]
    in_training = experiment.augmented(samples, samples.targets)
    cropped.clear()
    plain = experiment.fit_net(net, in_training, arguments.seed)
    assert len(cropped) == 30
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
    dataset = TensorDataset(torch.zeros(4, 1), torch.arange(4))
    for training in (True, False):
        loader = net.get_iterator(dataset, training=training)
        assert loader.num_workers == n_workers
        # None would mean the one of the process, and those of joblib have their own.
        assert (loader.multiprocessing_context is None) == (n_workers == 0)


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (56, 0.85), (110, 1.7)])
def test_cifar_resnet_is_as_large_as_published(depth, millions, modules):
    net = modules["_cifar_resnet"].CifarResNet(depth)
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == depth
    n_parameters = sum(p.numel() for p in net.parameters())
    assert n_parameters == pytest.approx(millions * 1e6, rel=0.02)


def test_cifar_resnet_halves_the_image_twice(modules):
    net = modules["_cifar_resnet"].CifarResNet(
        depth=14, n_outputs=4, width=2, n_channels=1
    )
    X = torch.zeros(3, 1, 33, 20)
    assert net.features(X).shape == (3, 8, 9, 5)
    assert net(X).shape == (3, 4)


def test_cifar_resnet_shortcut_is_the_image(modules):
    net = modules["_cifar_resnet"].CifarResNet(depth=8, width=2)
    for block in net.features[3:]:
        nn.init.zeros_(block.residual[-1].weight)
    X = torch.rand(2, 3, 8, 8)
    stem = net.features[:3](X)
    features = net.features(X)
    assert torch.equal(features[:, :2], stem[:, :, ::4, ::4])
    assert not features[:, 2:].any()


@pytest.mark.parametrize("depth", [2, 18])
def test_cifar_resnet_refuses_other_depths(depth, modules):
    with pytest.raises(ValueError, match=f"depth must be 6 n .* got {depth}"):
        modules["_cifar_resnet"].CifarResNet(depth)


def test_cifar_resnet_is_found_by_workers_and_by_the_cache(modules, svhn, capsys):
    # Workers of an earlier test do not know the folder of the examples.
    get_reusable_executor().shutdown(wait=True)
    command = f"--dataset svhn --root {svhn} {TINY} --n-samples 30 --cv 2 --memory "
    command += f"{svhn / 'memory'} --drop-fraction"
    modules["cifar10_resnet"].main([*command.split(), "0", "--n-jobs", "2"])
    first = figures(r"data dropout +(\S+)\n", capsys.readouterr().out)
    modules["cifar10_resnet"].main([*command.split(), "0"])
    assert figures(r"data dropout +(\S+)\n", capsys.readouterr().out) == first
    assert len(list((svhn / "memory").rglob("output.pkl"))) == 2


def test_numbers_and_names(modules):
    number_or_name = modules["_experiment"].number_or_name
    values = [number_or_name(text) for text in ("5", "0.2", "auto")]
    assert values == [5, 0.2, "auto"]
    assert isinstance(values[0], int)


def test_dncnn(modules, folders, capsys):
    train, test = folders
    modules["bsd68_dncnn"].main(
        f"--train {train} --test {test} --patch 16 --stride 8 --n-patches 40 "
        "--corrupt 0.25 --kind invert --depth 3 --width 4 --epochs 2 --batch-size 10 "
        "--device cpu --cv 2 --drop-fraction 0.2 --reopen".split()
    )
    shown = capsys.readouterr().out
    assert "40 training samples, 10 with a spoiled target" in shown
    assert "dropped 8 of 40 samples (20.00%)" in shown
    hits, precision = figures(r"(\d+) of them .* precision (\S+),", shown)
    assert precision == pytest.approx(hits / 8, abs=5e-4)
    lines = re.findall(r"^(d\.png|e\.PNG|mean of 2 images)(.*)$", shown, re.MULTILINE)
    table = np.array([line.split() for _, line in lines], dtype=float)
    assert table.shape == (3, 4)
    np.testing.assert_allclose(table[2], table[:2].mean(axis=0), atol=0.011)
    # The noise itself has 20 log10(255 / 25) = 20.17 dB; nothing clips it.
    assert table[2, 0] == pytest.approx(20.17, abs=0.3)


@pytest.fixture
def patches_of(modules, folders):
    def load(*arguments):
        train, test = map(str, folders)
        script = modules["bsd68_dncnn"]
        arguments = ["--train", train, "--test", test, "--patch", "16", *arguments]
        return script.load_samples(script.parse_arguments(arguments))

    return load


def test_patches_are_cut_from_the_images(patches_of, folders):
    samples, spoiled = patches_of("--stride", "16")
    # Three by three of 48 x 48 pixels twice, two by three of 40 x 50.
    assert len(samples) == 9 + 9 + 6
    assert not spoiled.any()
    gray = np.array(Image.open(folders[0] / "c.bmp"))
    np.testing.assert_array_equal(samples[-1][1][0] * 255, gray[16:32, 32:48])


def test_noise_belongs_to_the_patch(patches_of):
    samples, _ = patches_of("--sigma", "50")
    again, _ = patches_of("--sigma", "50", "--reopen")
    noise = [torch.sub(*samples[number]).numpy() for number in range(len(samples))]
    for number in range(len(samples)):
        for part, same in zip(samples[number], again[number], strict=True):
            assert torch.equal(part, same)
    assert np.std(noise) == pytest.approx(50 / 255, rel=0.05)
    assert np.abs(np.corrcoef(np.reshape(noise, (len(samples), -1)))[0, 1:]).max() < 0.3


def test_targets_are_spoiled_but_not_their_noisy_images(patches_of):
    clean, _ = patches_of()
    samples, spoiled = patches_of("--corrupt", "0.5", "--kind", "invert")
    assert spoiled.sum() == round(0.5 * len(samples))
    for number in range(len(samples)):
        (noisy, target), (same, truth) = samples[number], clean[number]
        assert torch.equal(noisy, same)
        expected = 1 - truth if spoiled[number] else truth
        torch.testing.assert_close(target, expected)


def test_pairs_are_turned_together_in_training_only(modules, patches_of):
    augmented = modules["_experiment"].augmented
    samples, _ = patches_of()
    noise = torch.sub(*samples[0])
    ways = [torch.rot90(m, k, (1, 2)) for m in (noise, noise.flip(2)) for k in range(4)]
    seen = set()
    for _ in range(40):
        assert torch.equal(torch.sub(*samples[0]), noise)
        turned = torch.sub(*augmented(samples, None)[0])
        [way] = [number for number in range(8) if torch.equal(turned, ways[number])]
        seen.add(way)
    assert len(seen) > 4
    samples, _ = patches_of("--no-augment")
    assert torch.equal(torch.sub(*augmented(samples, None)[0]), noise)


def test_folders_without_images_are_refused(modules, folders, tmp_path):
    script = modules["bsd68_dncnn"]
    with pytest.raises(SystemExit, match="no png, jpg or bmp files in"):
        script.image_files(tmp_path)
    train, test = map(str, folders)
    arguments = ["--train", train, "--test", test, "--patch", "49"]
    with pytest.raises(SystemExit, match="no image has 49 pixels in both directions"):
        script.load_samples(script.parse_arguments(arguments))


@pytest.mark.parametrize("text", ["1", "-0.1"])
def test_shares_out_of_range_are_refused(text, modules, capsys):
    with pytest.raises(SystemExit):
        modules["cifar10_resnet"].parse_arguments(["--label-noise", text])
    assert "must lie in [0, 1)" in capsys.readouterr().err


def test_report_counts_candidates(modules, capsys):
    class Fitted:
        sample_mask_ = np.array([True, False, False, True])
        round_one_estimators_ = [None] * 3
        cv_results_ = {"objective": np.zeros((3, 3))}
        timings_ = {"round_one": 2.0}

    modules["_experiment"].print_dropped(Fitted, np.array([True, True, False, False]))
    shown = capsys.readouterr().out
    assert "precision 0.500, recall 0.500" in shown
    assert (
        "3 of round 1, 6 of candidates, 1 of round 2; seconds: round_one 2.0" in shown
    )
