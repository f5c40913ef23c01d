"""Nets, targets and inputs that people have, and what becomes of each.

The table in docs/compatibility.md is made of these rows, and tests/test_situations.py
runs every one. ``python tests/situations.py`` writes it anew.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse
import torch
from skorch import (
    NeuralNet,
    NeuralNetBinaryClassifier,
    NeuralNetClassifier,
    NeuralNetRegressor,
)
from skorch.callbacks import Callback, EarlyStopping, LRScheduler
from skorch.dataset import ValidSplit
from skorch.helper import SliceDict
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset, TensorDataset, WeightedRandomSampler

from sk_datadrop import DataDropoutClassifier, DataDropoutRegressor

PAGE = Path(__file__).parents[1] / "docs" / "compatibility.md"
BEGIN, END = "<!-- situations: begin -->\n", "<!-- situations: end -->\n"
N = 48
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 4)).astype(np.float32)
LABELS = (X[:, 0] > 0).astype(np.int64)
IMAGES = RNG.normal(size=(N, 1, 6, 6)).astype(np.float32)
TEXTS = RNG.integers(1, 9, (N, 5))


class Situation(NamedTuple):
    """A row: what is given, and `refusal`, a part of the message, if it is refused.

    `model` makes the estimator, and `data` what its ``fit`` is given; then the fit is
    asked to `predict` the first samples.
    """

    inputs: str
    targets: str
    criterion: str
    net: str
    callbacks: str
    model: Callable[[], Any]
    data: Callable[[], tuple[Any, Any]]
    refusal: str = ""
    advice: str = ""


# Modules.


def mlp(n_outputs: int, *last: nn.Module, n_inputs: int = 4) -> type[nn.Module]:
    """Return a class of small nets."""

    class Small(nn.Sequential):
        def __init__(self) -> None:
            layers = nn.Linear(n_inputs, 8), nn.Tanh(), nn.Linear(8, n_outputs)
            super().__init__(*layers, *last)

    return Small


def convolution(n_outputs: int, *last: nn.Module) -> type[nn.Module]:
    """Return a class of small nets from images to images."""

    class Convolution(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Conv2d(1, n_outputs, 3, padding=1), *last)

    return Convolution


class Tagger(nn.Module):
    """A class for each token, (n, n_classes, n_tokens), or the tokens before them."""

    def __init__(self, classes_last: bool = False) -> None:
        super().__init__()
        self.embedding, self.linear = nn.Embedding(9, 4), nn.Linear(4, 3)
        self.classes_last = classes_last

    def forward(self, X: Any) -> Any:
        outputs = self.linear(self.embedding(X))
        return outputs if self.classes_last else outputs.transpose(1, 2)


class Bag(nn.Module):
    """The mean of embedded tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.linear = nn.Embedding(9, 4, padding_idx=0), nn.Linear(4, 2)

    def forward(self, input_ids: Any, attention_mask: Any = None) -> Any:
        counts = (input_ids > 0).sum(1, keepdim=True)
        return self.linear(self.embedding(input_ids).sum(1) / counts)


class TwoInputs(nn.Module):
    """Numbers and tokens, as keyword arguments or in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.linear = nn.Embedding(9, 4), nn.Linear(8, 2)

    def forward(self, numbers: Any, tokens: Any = None) -> Any:
        if tokens is None:
            numbers, tokens = numbers
        return self.linear(torch.cat([numbers, self.embedding(tokens).mean(1)], dim=1))


class Several(nn.Module):
    """Outputs beside others, in a tuple or dict."""

    def __init__(self, as_dict: bool = False) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 2)
        self.as_dict = as_dict

    def forward(self, X: Any) -> Any:
        hidden = torch.tanh(self.first(X))
        logits = self.second(hidden)
        return (
            {"logits": logits, "hidden": hidden} if self.as_dict else (hidden, logits)
        )


class Mapped(nn.Module):
    """Calls a function of the user's."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.linear, self.function = nn.Linear(4, 2), function

    def forward(self, X: Any) -> Any:
        return self.linear(self.function(X))


# Criteria.


class OfUser(nn.Module):
    """A criterion of the user's."""

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        self.reduction = reduction

    def forward(self, outputs: Any, y: Any) -> Any:
        losses = self.losses(outputs, y)
        return losses.mean() if self.reduction == "mean" else losses


class Focal(OfUser):
    def losses(self, z: Any, y: Any) -> Any:
        surprise = F.cross_entropy(z, y, reduction="none")
        return (1 - torch.exp(-surprise)) ** 2 * surprise


class GeneralisedCrossEntropy(OfUser):
    def losses(self, z: Any, y: Any) -> Any:
        return (1 - z.softmax(1).gather(1, y[:, None])[:, 0] ** 0.7) / 0.7


class BinaryFocal(OfUser):
    def losses(self, z: Any, y: Any) -> Any:
        surprise = F.binary_cross_entropy_with_logits(z, y, reduction="none")
        return (1 - torch.exp(-surprise)) ** 2 * surprise


class Dice(OfUser):
    def losses(self, z: Any, y: Any) -> Any:
        p, y = torch.sigmoid(z).flatten(1), y.flatten(1)
        return 1 - (2 * (p * y).sum(1) + 1) / (p.sum(1) + y.sum(1) + 1)


class Pinball(OfUser):
    def losses(self, q: Any, y: Any) -> Any:
        levels = torch.tensor([0.1, 0.5, 0.9])
        error = y.reshape(-1, 1) - q
        return torch.maximum(levels * error, (levels - 1) * error)


class MeanOnly(nn.Module):
    def forward(self, outputs: Any, y: Any) -> Any:
        return F.cross_entropy(outputs, y)


class Triplets(OfUser):
    """Says nothing of classes."""

    def losses(self, z: Any, y: Any) -> Any:
        return (z - z.mean(0)).square().mean(1) / (y == 0)


# Nets.


class Flattens(NeuralNet):
    def get_loss(self, y_pred: Any, y_true: Any, *args: Any, **options: Any) -> Any:
        y_pred = y_pred.reshape(-1, y_pred.shape[-1])
        return super().get_loss(y_pred, y_true.reshape(-1), *args, **options)


class Picks(NeuralNetClassifier):
    def get_loss(self, y_pred: Any, y_true: Any, *args: Any, **options: Any) -> Any:
        picked = y_pred["logits"] if isinstance(y_pred, dict) else y_pred[1]
        return super().get_loss(picked, y_true, *args, **options)


class PicksInInfer(NeuralNetClassifier):
    def infer(self, x: Any, **options: Any) -> Any:
        return super().infer(x, **options)[1]


class Gaussian(NeuralNetRegressor):
    def get_loss(self, y_pred: Any, y_true: Any, *args: Any, **options: Any) -> Any:
        mean, log_variance = y_pred.T
        return self.criterion_(mean, y_true.reshape(-1), log_variance.exp())


class OneHot(NeuralNetClassifier):
    def get_loss(self, y_pred: Any, y_true: Any, *args: Any, **options: Any) -> Any:
        return self.criterion_(y_pred, F.one_hot(y_true, y_pred.shape[1]).float())


class TwoHeads(NeuralNet):
    def get_loss(self, y_pred: Any, y_true: Any, *args: Any, **options: Any) -> Any:
        first = self.criterion_(y_pred[:, :2], y_true[:, 0])
        return first + self.criterion_(y_pred[:, 2:], y_true[:, 1])


class ToInputs(NeuralNetRegressor):
    def get_loss(self, y_pred: Any, y_true: Any, X: Any = None, **options: Any) -> Any:
        return self.criterion_(y_pred, X)


class Averages(NeuralNetClassifier):
    def get_loss(self, y_pred: Any, y_true: Any, *args: Any, **options: Any) -> Any:
        return F.cross_entropy(y_pred, y_true)


def net(module: Any, criterion: Any, kind: Any = NeuralNet, **options: Any) -> Any:
    """Return a net that trains for two epochs."""
    common = {"max_epochs": 2, "batch_size": 16, "lr": 0.1, "verbose": 0}
    common |= {"train_split": None}
    return kind(module, criterion=criterion, **common | options)


def classifier(*args: Any, **options: Any) -> Callable[[], Any]:
    return lambda: DataDropoutClassifier(net(*args, **options), cv=2, random_state=0)


def regressor(*args: Any, **options: Any) -> Callable[[], Any]:
    return lambda: DataDropoutRegressor(net(*args, **options), cv=2, random_state=0)


CE, BCE = nn.CrossEntropyLoss, nn.BCEWithLogitsLoss
NNC = NeuralNetClassifier
plain = classifier(mlp(2), CE, NNC)


# Inputs.


class Items(Dataset):
    """Items made by a function of their number."""

    def __init__(self, item: Callable[[int], Any]) -> None:
        self.item = item

    def __len__(self) -> int:
        return N

    def __getitem__(self, number: int) -> Any:
        return self.item(number)


class Scaled(Dataset):
    """A data set class of the user's, for ``NeuralNet(dataset=...)``."""

    def __init__(self, X: Any, y: Any = None) -> None:
        self.X, self.y = np.asarray(X), np.zeros(len(X)) if y is None else y

    def __len__(self) -> int:
        return len(self.X)

    def __getitem__(self, number: int) -> Any:
        return self.X[number] / 100, self.y[number]


def padded(items: Any) -> Any:
    """Collate rows of different lengths."""
    rows = [torch.as_tensor(x) for x, _ in items]
    return pad_sequence(rows, batch_first=True), torch.as_tensor([y for _, y in items])


COLLATE = {
    "iterator_train__collate_fn": padded,
    "iterator_valid__collate_fn": padded,
}
RAGGED = [TEXTS[i, : 2 + i % 4] for i in range(N)]
MULTILABEL = (X[:, :3] > 0).astype(int)
MASKS = (IMAGES[:, 0] > 0).astype(int) + (IMAGES[:, 0] > 1)
TAGS = np.where(np.arange(5) < 3 + np.arange(N)[:, None] % 3, TEXTS % 3, -100)
COUNTS = np.round(np.exp(X[:, 0])).astype(np.float32)
FRAME = pd.DataFrame({"age": X[:, 0], "city": np.where(LABELS, "Ulm", "Bern")})


# Callbacks.


class KeepsTheBest(Callback):
    """Reads what only a validation phase records."""

    def on_train_begin(self, net: Any, **_: Any) -> None:
        self.best_ = np.inf

    def on_epoch_end(self, net: Any, **_: Any) -> None:
        self.best_ = min(self.best_, net.history[-1, "valid_loss"])


def one_cycle(total_steps: int) -> Any:
    policy = torch.optim.lr_scheduler.OneCycleLR
    return LRScheduler(policy, max_lr=0.1, total_steps=total_steps, step_every="batch")


def with_callback(callback: Callable[[], Any], **options: Any) -> Callable[[], Any]:
    return lambda: classifier(mlp(2), CE, NNC, callbacks=[callback()], **options)()


def labelled(inputs: Any, targets: Any = LABELS) -> Callable[[], tuple[Any, Any]]:
    return lambda: (inputs, targets)


SPLIT = {"train_split": ValidSplit(5)}
table = labelled(X)
images, tokens, signals = "images (N, C, H, W)", "token ids (N, L)", "table (N, D)"
one, none = "labels (N,)", ""
NB, NN = "NeuralNetBinaryClassifier", "NeuralNet"
CLF = "NeuralNetClassifier"

SITUATIONS = [
    # Criteria of labels.
    Situation(signals, one, "CrossEntropyLoss", CLF, none, plain, table),
    Situation(
        signals,
        one,
        "CrossEntropyLoss, weight and label_smoothing",
        CLF,
        none,
        classifier(
            mlp(2),
            CE,
            NNC,
            criterion__weight=torch.tensor([1.0, 3.0]),
            criterion__label_smoothing=0.1,
        ),
        table,
    ),
    Situation(
        signals,
        one,
        "CrossEntropyLoss",
        "any, compile=True",
        none,
        classifier(
            mlp(2),
            CE,
            NNC,
            compile=True,
            compile__backend="eager",
            criterion__label_smoothing=0.1,
        ),
        table,
    ),
    Situation(
        signals,
        one,
        "NLLLoss on probabilities",
        CLF,
        none,
        classifier(mlp(2, nn.Softmax(1)), nn.NLLLoss, NNC),
        table,
    ),
    Situation(
        signals,
        one,
        "NLLLoss on logits",
        CLF,
        none,
        classifier(mlp(2), nn.NLLLoss, NNC),
        table,
        "needs probabilities",
        "end the module with a softmax, or use CrossEntropyLoss",
    ),
    Situation(
        signals, one, "focal, yours", CLF, none, classifier(mlp(2), Focal, NNC), table
    ),
    Situation(
        signals,
        one,
        "generalised cross entropy, yours",
        CLF,
        none,
        classifier(mlp(2), GeneralisedCrossEntropy, NNC),
        table,
    ),
    Situation(
        signals,
        one,
        "MultiMarginLoss",
        CLF,
        none,
        classifier(mlp(2), nn.MultiMarginLoss, NNC),
        table,
    ),
    Situation(
        signals,
        one,
        "BCEWithLogitsLoss",
        NB,
        none,
        classifier(mlp(1), BCE, NeuralNetBinaryClassifier),
        table,
    ),
    Situation(
        signals,
        one,
        "binary focal, yours",
        NB,
        none,
        classifier(mlp(1), BinaryFocal, NeuralNetBinaryClassifier),
        table,
    ),
    Situation(
        signals,
        one,
        "without `reduction`",
        CLF,
        none,
        classifier(mlp(2), MeanOnly, NNC),
        table,
        "has no losses per sample",
        "give it a `reduction` attribute that accepts 'none'",
    ),
    Situation(
        signals,
        one,
        "that says nothing of classes",
        CLF,
        none,
        classifier(mlp(2), Triplets, NNC),
        table,
        "does not tell how probabilities",
        "give the net a predict_nonlinearity",
    ),
    Situation(
        signals,
        one,
        "averaged in get_loss",
        "with your get_loss",
        none,
        classifier(mlp(2), CE, Averages),
        table,
        "get_loss of Averages gives losses of shape",
        "average only where criterion_.reduction is not 'none'",
    ),
    Situation(
        signals,
        "one-hot (N, C)",
        "CrossEntropyLoss",
        CLF,
        none,
        plain,
        labelled(X, np.eye(2)[LABELS]),
        "Pass the classes, y.argmax",
        "pass the classes, or use DataDropoutRegressor",
    ),
    Situation(
        signals,
        "probabilities (N, C)",
        "CrossEntropyLoss",
        NN,
        none,
        regressor(mlp(2), CE),
        labelled(X, np.eye(2, dtype=np.float32)[LABELS] * 0.8 + 0.1),
    ),
    # Many classes per sample.
    Situation(
        signals,
        "multilabel (N, L)",
        "BCEWithLogitsLoss",
        NN,
        none,
        classifier(mlp(3), BCE),
        labelled(X, MULTILABEL),
    ),
    Situation(
        signals,
        "multilabel (N, L)",
        "binary focal, yours",
        CLF,
        none,
        classifier(mlp(3), BinaryFocal, NNC),
        labelled(X, MULTILABEL),
    ),
    Situation(
        signals,
        "multilabel (N, L)",
        "MultiLabelSoftMarginLoss",
        NN,
        none,
        classifier(mlp(3), nn.MultiLabelSoftMarginLoss),
        labelled(X, MULTILABEL),
    ),
    Situation(
        signals,
        "multilabel (N, L)",
        "BCELoss",
        NN,
        none,
        regressor(mlp(3, nn.Sigmoid()), nn.BCELoss),
        labelled(X, MULTILABEL.astype(np.float32)),
    ),
    Situation(
        images,
        "masks (N, H, W)",
        "CrossEntropyLoss",
        CLF,
        none,
        classifier(convolution(3), CE, NNC),
        labelled(IMAGES, MASKS),
    ),
    Situation(
        images,
        "masks (N, H, W)",
        "CrossEntropyLoss",
        NN,
        none,
        regressor(convolution(3), CE),
        labelled(IMAGES, MASKS),
        "use DataDropoutClassifier",
        "use DataDropoutClassifier",
    ),
    Situation(
        images,
        "masks (N, 1, H, W)",
        "BCEWithLogitsLoss",
        NN,
        none,
        regressor(convolution(1), BCE),
        labelled(IMAGES, (IMAGES > 0).astype(np.float32)),
    ),
    Situation(
        images,
        "masks (N, 1, H, W)",
        "Dice, yours",
        NN,
        none,
        classifier(convolution(1), Dice),
        labelled(IMAGES, (IMAGES > 0).astype(int)),
    ),
    Situation(
        tokens,
        "tags (N, L), ignore_index",
        "CrossEntropyLoss",
        NN,
        none,
        classifier(Tagger, CE),
        labelled(TEXTS, TAGS),
    ),
    Situation(
        tokens,
        "tags (N, L)",
        "CrossEntropyLoss, flattened in get_loss",
        "with your get_loss",
        none,
        classifier(Tagger, CE, Flattens, module__classes_last=True),
        labelled(TEXTS, TAGS),
    ),
    # Real targets.
    Situation(
        signals,
        "real (N,)",
        "MSELoss, HuberLoss, SmoothL1Loss",
        "NeuralNetRegressor",
        none,
        regressor(mlp(1), nn.HuberLoss, NeuralNetRegressor),
        labelled(X, X[:, 0]),
    ),
    Situation(
        signals,
        "real (N,)",
        "L1Loss",
        "NeuralNetRegressor",
        none,
        regressor(mlp(1), nn.L1Loss, NeuralNetRegressor),
        labelled(X, X[:, 0]),
    ),
    Situation(
        signals,
        "counts (N,)",
        "PoissonNLLLoss",
        "NeuralNetRegressor",
        none,
        regressor(mlp(1), nn.PoissonNLLLoss, NeuralNetRegressor),
        labelled(X, COUNTS),
    ),
    Situation(
        signals,
        "real (N,)",
        "GaussianNLLLoss, mean and variance",
        "with your get_loss",
        none,
        regressor(mlp(2), nn.GaussianNLLLoss, Gaussian),
        labelled(X, X[:, 0]),
    ),
    Situation(
        signals,
        "real (N,)",
        "quantiles, yours",
        "NeuralNetRegressor",
        none,
        regressor(mlp(3), Pinball, NeuralNetRegressor),
        labelled(X, X[:, 0]),
    ),
    Situation(
        signals,
        "real (N,)",
        "MSELoss with 3 outputs",
        "NeuralNetRegressor",
        none,
        regressor(mlp(3), nn.MSELoss, NeuralNetRegressor),
        labelled(X, X[:, 0]),
        "Give the module as many outputs as y has targets",
        "as many outputs as targets",
    ),
    # What modules return.
    Situation(
        signals,
        one,
        "CrossEntropyLoss",
        "a tuple, get_loss picks",
        none,
        classifier(Several, CE, Picks),
        table,
    ),
    Situation(
        signals,
        one,
        "CrossEntropyLoss",
        "a dict, get_loss picks",
        none,
        classifier(Several, CE, Picks, module__as_dict=True),
        table,
    ),
    Situation(
        signals,
        one,
        "CrossEntropyLoss",
        "a tuple, infer picks",
        none,
        classifier(Several, CE, PicksInInfer),
        table,
    ),
    Situation(
        signals,
        one,
        "CrossEntropyLoss",
        "a tuple, nobody picks",
        none,
        classifier(Several, CE, NNC),
        table,
        "returns a tuple of tensors",
        "pick in infer or get_loss",
    ),
    Situation(
        signals,
        one,
        "BCEWithLogitsLoss, one-hot in get_loss",
        "with your get_loss",
        none,
        classifier(mlp(2), BCE, OneHot),
        table,
    ),
    Situation(
        signals,
        "two labels (N, 2)",
        "CrossEntropyLoss of two heads",
        "with your get_loss",
        none,
        classifier(mlp(5), CE, TwoHeads),
        labelled(X, np.c_[LABELS, X[:, 1:].argmax(1)]),
    ),
    Situation(
        signals,
        "inputs",
        "MSELoss against X",
        "with your get_loss",
        none,
        regressor(mlp(4), nn.MSELoss, ToInputs),
        labelled(X, X),
    ),
    Situation(
        images,
        "masks of 0 and 255",
        "BCEWithLogitsLoss",
        NN,
        none,
        classifier(convolution(1), BCE),
        labelled(IMAGES, 255 * (IMAGES > 0).astype(int)),
        "y holds 255",
        "divide by 255",
    ),
    # Inputs.
    Situation(
        "token ids (N, L), integers of any size",
        one,
        "CrossEntropyLoss",
        "nn.Embedding",
        none,
        classifier(Bag, CE, NNC),
        labelled(TEXTS),
    ),
    Situation(
        "float64",
        one,
        "CrossEntropyLoss",
        "module.double()",
        none,
        classifier(mlp(2, nn.Identity().double()), CE, NNC),
        labelled(X.astype(np.float64)),
    ),
    Situation(
        "dict or SliceDict of arrays",
        one,
        "CrossEntropyLoss",
        CLF,
        none,
        classifier(TwoInputs, CE, NNC),
        labelled(SliceDict(numbers=X, tokens=TEXTS)),
    ),
    Situation(
        "tuple or list of arrays",
        one,
        "CrossEntropyLoss",
        CLF,
        none,
        classifier(TwoInputs, CE, NNC),
        labelled((X, TEXTS)),
    ),
    Situation(
        "data set of ({...}, y) or ((a, b), y)",
        one,
        "CrossEntropyLoss",
        CLF,
        none,
        classifier(TwoInputs, CE, NNC),
        lambda: (
            Items(lambda i: ({"numbers": X[i], "tokens": TEXTS[i]}, LABELS[i])),
            None,
        ),
    ),
    Situation(
        "Hugging Face items, target under 'labels' or 'label'",
        one,
        "CrossEntropyLoss",
        CLF,
        none,
        classifier(Bag, CE, NNC),
        lambda: (
            Items(lambda i: {"input_ids": TEXTS[i], "labels": int(LABELS[i])}),
            None,
        ),
    ),
    Situation(
        "the same without targets",
        none,
        "",
        "",
        none,
        classifier(Bag, CE, NNC),
        lambda: (Items(lambda i: {"input_ids": TEXTS[i]}), None),
        "no targets under 'labels' or 'label'",
        "pass y",
    ),
    Situation(
        "rows of different lengths, your collate_fn",
        one,
        "CrossEntropyLoss",
        CLF,
        none,
        classifier(Bag, CE, NNC, **COLLATE),
        labelled(RAGGED),
    ),
    Situation(
        "the same without collate_fn",
        one,
        "CrossEntropyLoss",
        CLF,
        none,
        classifier(Bag, CE, NNC),
        labelled(RAGGED),
        "collate_fn",
        "give the net a collate_fn",
    ),
    Situation(
        signals,
        one,
        "CrossEntropyLoss",
        "NeuralNet(dataset=...), yours",
        none,
        classifier(mlp(2), CE, NNC, dataset=Scaled),
        table,
    ),
    Situation(
        "TensorDataset, ImageFolder, Subset",
        one,
        "CrossEntropyLoss",
        CLF,
        none,
        plain,
        lambda: (TensorDataset(torch.as_tensor(X), torch.as_tensor(LABELS)), None),
    ),
    Situation(
        "DataLoader",
        one,
        "CrossEntropyLoss",
        CLF,
        none,
        plain,
        lambda: (DataLoader(TensorDataset(torch.as_tensor(X))), LABELS),
        "X is a DataLoader",
        "pass its data set",
    ),
    Situation(
        "frame with text columns",
        one,
        "CrossEntropyLoss",
        CLF,
        none,
        classifier(mlp(2, n_inputs=2), CE, NNC),
        labelled(FRAME),
        "city",
        "encode them in a ColumnTransformer",
    ),
    Situation(
        "sparse",
        one,
        "CrossEntropyLoss",
        CLF,
        none,
        plain,
        lambda: (scipy.sparse.csr_matrix(X), LABELS),
        "parse",
        "make it dense",
    ),
    Situation(
        "NaN",
        one,
        "CrossEntropyLoss",
        CLF,
        none,
        plain,
        labelled(np.where(X > 2, np.nan, X)),
        "NaN",
        "fill it in, as SimpleImputer does",
    ),
    Situation(
        "images (N, H, W)",
        one,
        "CrossEntropyLoss",
        "convolution",
        none,
        classifier(convolution(2, nn.AdaptiveAvgPool2d(1), nn.Flatten()), CE, NNC),
        labelled(IMAGES[:, 0]),
        r"pass X\[:, None\]",
        "pass X[:, None]",
    ),
    # Callbacks, samplers, workers.
    Situation(
        signals,
        one,
        "CrossEntropyLoss",
        CLF,
        "EarlyStopping, load_best",
        with_callback(lambda: EarlyStopping(load_best=True), **SPLIT),
        table,
    ),
    Situation(
        signals,
        one,
        "CrossEntropyLoss",
        "train_split=None",
        "EarlyStopping",
        with_callback(EarlyStopping),
        table,
        "watches a validation quantity",
        "give the net a train_split, or pass X_val",
    ),
    Situation(
        signals,
        one,
        "CrossEntropyLoss",
        CLF,
        "yours, reads `valid_loss`",
        with_callback(KeepsTheBest, **SPLIT),
        table,
    ),
    Situation(
        signals,
        one,
        "CrossEntropyLoss",
        CLF,
        "OneCycleLR for the steps of all samples",
        with_callback(lambda: one_cycle(6)),
        table,
    ),
    Situation(
        signals,
        one,
        "CrossEntropyLoss",
        CLF,
        "OneCycleLR for the steps of 80 %",
        with_callback(lambda: one_cycle(5)),
        table,
        "total steps",
        "set total_steps to those of round 2",
    ),
    Situation(
        signals,
        one,
        "CrossEntropyLoss",
        "WeightedRandomSampler for all samples",
        none,
        classifier(
            mlp(2),
            CE,
            NNC,
            iterator_train__sampler=WeightedRandomSampler(np.ones(N), N),
        ),
        table,
        "made for all samples",
        "pass an iterator_train that makes its sampler",
    ),
]


def as_markdown() -> str:
    """Return the table of all situations."""
    lines = [
        "| input | target | criterion | net | callback | |",
        "|---|---|---|---|---|---|",
    ]
    for s in SITUATIONS:
        outcome = f"refused: {s.advice}" if s.refusal else "works"
        cells = (s.inputs, s.targets, s.criterion, s.net, s.callbacks, outcome)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def write() -> None:
    """Write the table into the page."""
    page = PAGE.read_text()
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    PAGE.write_text(before + BEGIN + "\n" + as_markdown() + "\n" + END + after)


if __name__ == "__main__":
    write()
