"""Nets, targets and inputs that people have, and whether each works.

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
    """A row of the table, and how to run it.

    `model` makes the estimator, and `data` the arguments of its ``fit``. A row works if
    the fitted estimator predicts the first samples. If it is refused, `refusal` is a
    part of the message, and `advice` stands in the table.
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
    """Predicts a class per token; classes are the last axis if `classes_last`."""

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
    """Takes numbers and tokens, as keyword arguments or in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.linear = nn.Embedding(9, 4), nn.Linear(8, 2)

    def forward(self, numbers: Any, tokens: Any = None) -> Any:
        if tokens is None:
            numbers, tokens = numbers
        return self.linear(torch.cat([numbers, self.embedding(tokens).mean(1)], dim=1))


class Several(nn.Module):
    """Returns several outputs, in a tuple or dict."""

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
    """A criterion that does not tell classes."""

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

DEFAULTS = Situation(signals, one, "CrossEntropyLoss", CLF, none, plain, table)
row = DEFAULTS._replace  # a new row names only what differs

SITUATIONS = [
    # Criteria of labels.
    row(),
    row(
        criterion="CrossEntropyLoss, weight and label_smoothing",
        model=classifier(
            mlp(2),
            CE,
            NNC,
            criterion__weight=torch.tensor([1.0, 3.0]),
            criterion__label_smoothing=0.1,
        ),
    ),
    row(
        net="any, compile=True",
        model=classifier(
            mlp(2),
            CE,
            NNC,
            compile=True,
            compile__backend="eager",
            criterion__label_smoothing=0.1,
        ),
    ),
    row(
        criterion="NLLLoss on probabilities",
        model=classifier(mlp(2, nn.Softmax(1)), nn.NLLLoss, NNC),
    ),
    row(
        criterion="NLLLoss on logits",
        model=classifier(mlp(2), nn.NLLLoss, NNC),
        refusal="needs probabilities",
        advice="end the module with a softmax, or use CrossEntropyLoss",
    ),
    row(criterion="focal loss, yours", model=classifier(mlp(2), Focal, NNC)),
    row(
        criterion="generalised cross entropy, yours",
        model=classifier(mlp(2), GeneralisedCrossEntropy, NNC),
    ),
    row(criterion="MultiMarginLoss", model=classifier(mlp(2), nn.MultiMarginLoss, NNC)),
    row(
        criterion="BCEWithLogitsLoss",
        net=NB,
        model=classifier(mlp(1), BCE, NeuralNetBinaryClassifier),
    ),
    row(
        criterion="binary focal loss, yours",
        net=NB,
        model=classifier(mlp(1), BinaryFocal, NeuralNetBinaryClassifier),
    ),
    row(
        criterion="yours, without `reduction`",
        model=classifier(mlp(2), MeanOnly, NNC),
        refusal="has no losses per sample",
        advice="give it a `reduction` attribute that accepts 'none'",
    ),
    row(
        criterion="yours, from which no probabilities can be read",
        model=classifier(mlp(2), Triplets, NNC),
        refusal="does not tell how probabilities",
        advice="give the net a predict_nonlinearity",
    ),
    row(
        criterion="CrossEntropyLoss, averaged in get_loss",
        net="with your get_loss",
        model=classifier(mlp(2), CE, Averages),
        refusal="get_loss of Averages gives losses of shape",
        advice="average only where criterion_.reduction is not 'none'",
    ),
    row(
        targets="one-hot (N, C)",
        data=labelled(X, np.eye(2)[LABELS]),
        refusal="Pass the classes, y.argmax",
        advice="pass the classes, or use DataDropoutRegressor",
    ),
    row(
        targets="probabilities (N, C)",
        net=NN,
        model=regressor(mlp(2), CE),
        data=labelled(X, np.eye(2, dtype=np.float32)[LABELS] * 0.8 + 0.1),
    ),
    # Many classes per sample.
    row(
        targets="multilabel (N, L)",
        criterion="BCEWithLogitsLoss",
        net=NN,
        model=classifier(mlp(3), BCE),
        data=labelled(X, MULTILABEL),
    ),
    row(
        targets="multilabel (N, L)",
        criterion="binary focal loss, yours",
        model=classifier(mlp(3), BinaryFocal, NNC),
        data=labelled(X, MULTILABEL),
    ),
    row(
        targets="multilabel (N, L)",
        criterion="MultiLabelSoftMarginLoss",
        net=NN,
        model=classifier(mlp(3), nn.MultiLabelSoftMarginLoss),
        data=labelled(X, MULTILABEL),
    ),
    row(
        targets="multilabel (N, L)",
        criterion="BCELoss",
        net=NN,
        model=regressor(mlp(3, nn.Sigmoid()), nn.BCELoss),
        data=labelled(X, MULTILABEL.astype(np.float32)),
    ),
    row(
        inputs=images,
        targets="masks (N, H, W)",
        model=classifier(convolution(3), CE, NNC),
        data=labelled(IMAGES, MASKS),
    ),
    row(
        inputs=images,
        targets="masks (N, H, W)",
        net=NN,
        model=regressor(convolution(3), CE),
        data=labelled(IMAGES, MASKS),
        refusal="use DataDropoutClassifier",
        advice="use DataDropoutClassifier",
    ),
    row(
        inputs=images,
        targets="masks (N, 1, H, W)",
        criterion="BCEWithLogitsLoss",
        net=NN,
        model=regressor(convolution(1), BCE),
        data=labelled(IMAGES, (IMAGES > 0).astype(np.float32)),
    ),
    row(
        inputs=images,
        targets="masks (N, 1, H, W)",
        criterion="Dice loss, yours",
        net=NN,
        model=classifier(convolution(1), Dice),
        data=labelled(IMAGES, (IMAGES > 0).astype(int)),
    ),
    row(
        inputs=tokens,
        targets="tags (N, L), ignore_index",
        net=NN,
        model=classifier(Tagger, CE),
        data=labelled(TEXTS, TAGS),
    ),
    row(
        inputs=tokens,
        targets="tags (N, L)",
        criterion="CrossEntropyLoss, flattened in get_loss",
        net="with your get_loss",
        model=classifier(Tagger, CE, Flattens, module__classes_last=True),
        data=labelled(TEXTS, TAGS),
    ),
    # Real targets.
    row(
        targets="real (N,)",
        criterion="MSELoss, HuberLoss, SmoothL1Loss",
        net="NeuralNetRegressor",
        model=regressor(mlp(1), nn.HuberLoss, NeuralNetRegressor),
        data=labelled(X, X[:, 0]),
    ),
    row(
        targets="real (N,)",
        criterion="L1Loss",
        net="NeuralNetRegressor",
        model=regressor(mlp(1), nn.L1Loss, NeuralNetRegressor),
        data=labelled(X, X[:, 0]),
    ),
    row(
        targets="counts (N,)",
        criterion="PoissonNLLLoss",
        net="NeuralNetRegressor",
        model=regressor(mlp(1), nn.PoissonNLLLoss, NeuralNetRegressor),
        data=labelled(X, COUNTS),
    ),
    row(
        targets="real (N,)",
        criterion="GaussianNLLLoss, mean and variance",
        net="with your get_loss",
        model=regressor(mlp(2), nn.GaussianNLLLoss, Gaussian),
        data=labelled(X, X[:, 0]),
    ),
    row(
        targets="real (N,)",
        criterion="quantiles, yours",
        net="NeuralNetRegressor",
        model=regressor(mlp(3), Pinball, NeuralNetRegressor),
        data=labelled(X, X[:, 0]),
    ),
    row(
        targets="real (N,)",
        criterion="MSELoss with 3 outputs",
        net="NeuralNetRegressor",
        model=regressor(mlp(3), nn.MSELoss, NeuralNetRegressor),
        data=labelled(X, X[:, 0]),
        refusal="Give the module as many outputs as y has targets",
        advice="as many outputs as targets",
    ),
    # What modules return.
    row(net="a tuple, get_loss picks", model=classifier(Several, CE, Picks)),
    row(
        net="a dict, get_loss picks",
        model=classifier(Several, CE, Picks, module__as_dict=True),
    ),
    row(net="a tuple, infer picks", model=classifier(Several, CE, PicksInInfer)),
    row(
        net="a tuple, nobody picks",
        model=classifier(Several, CE, NNC),
        refusal="returns a tuple of tensors",
        advice="pick in infer or get_loss",
    ),
    row(
        criterion="BCEWithLogitsLoss, one-hot in get_loss",
        net="with your get_loss",
        model=classifier(mlp(2), BCE, OneHot),
    ),
    row(
        targets="two labels (N, 2)",
        criterion="CrossEntropyLoss of two heads",
        net="with your get_loss",
        model=classifier(mlp(5), CE, TwoHeads),
        data=labelled(X, np.c_[LABELS, X[:, 1:].argmax(1)]),
    ),
    row(
        targets="inputs",
        criterion="MSELoss against X",
        net="with your get_loss",
        model=regressor(mlp(4), nn.MSELoss, ToInputs),
        data=labelled(X, X),
    ),
    row(
        inputs=images,
        targets="masks of 0 and 255",
        criterion="BCEWithLogitsLoss",
        net=NN,
        model=classifier(convolution(1), BCE),
        data=labelled(IMAGES, 255 * (IMAGES > 0).astype(int)),
        refusal="y holds 255",
        advice="divide by 255",
    ),
    # Inputs.
    row(
        inputs="token ids (N, L), integers of any size",
        net="nn.Embedding",
        model=classifier(Bag, CE, NNC),
        data=labelled(TEXTS),
    ),
    row(
        inputs="float64",
        net="module.double()",
        model=classifier(mlp(2, nn.Identity().double()), CE, NNC),
        data=labelled(X.astype(np.float64)),
    ),
    row(
        inputs="dict or SliceDict of arrays",
        model=classifier(TwoInputs, CE, NNC),
        data=labelled(SliceDict(numbers=X, tokens=TEXTS)),
    ),
    row(
        inputs="tuple or list of arrays",
        model=classifier(TwoInputs, CE, NNC),
        data=labelled((X, TEXTS)),
    ),
    row(
        inputs="data set of ({...}, y) or ((a, b), y)",
        model=classifier(TwoInputs, CE, NNC),
        data=lambda: (
            Items(lambda i: ({"numbers": X[i], "tokens": TEXTS[i]}, LABELS[i])),
            None,
        ),
    ),
    row(
        inputs="Hugging Face items, target under 'labels' or 'label'",
        model=classifier(Bag, CE, NNC),
        data=lambda: (
            Items(lambda i: {"input_ids": TEXTS[i], "labels": int(LABELS[i])}),
            None,
        ),
    ),
    row(
        inputs="the same without targets",
        targets=none,
        criterion="",
        net="",
        model=classifier(Bag, CE, NNC),
        data=lambda: (Items(lambda i: {"input_ids": TEXTS[i]}), None),
        refusal="no targets under 'labels' or 'label'",
        advice="pass y",
    ),
    row(
        inputs="rows of different lengths, your collate_fn",
        model=classifier(Bag, CE, NNC, **COLLATE),
        data=labelled(RAGGED),
    ),
    row(
        inputs="the same without collate_fn",
        model=classifier(Bag, CE, NNC),
        data=labelled(RAGGED),
        refusal="collate_fn",
        advice="give the net a collate_fn",
    ),
    row(
        net="NeuralNet(dataset=...), yours",
        model=classifier(mlp(2), CE, NNC, dataset=Scaled),
    ),
    row(
        inputs="TensorDataset, ImageFolder, Subset",
        data=lambda: (TensorDataset(torch.as_tensor(X), torch.as_tensor(LABELS)), None),
    ),
    row(
        inputs="DataLoader",
        data=lambda: (DataLoader(TensorDataset(torch.as_tensor(X))), LABELS),
        refusal="X is a DataLoader",
        advice="pass its data set",
    ),
    row(
        inputs="frame with text columns",
        model=classifier(mlp(2, n_inputs=2), CE, NNC),
        data=labelled(FRAME),
        refusal="city",
        advice="encode them in a ColumnTransformer",
    ),
    row(
        inputs="sparse",
        data=lambda: (scipy.sparse.csr_matrix(X), LABELS),
        refusal="parse",
        advice="make it dense",
    ),
    row(
        inputs="NaN",
        data=labelled(np.where(X > 2, np.nan, X)),
        refusal="NaN",
        advice="fill it in, as SimpleImputer does",
    ),
    row(
        inputs="images (N, H, W)",
        net="convolution",
        model=classifier(
            convolution(2, nn.AdaptiveAvgPool2d(1), nn.Flatten()), CE, NNC
        ),
        data=labelled(IMAGES[:, 0]),
        refusal=r"pass X\[:, None\]",
        advice="pass X[:, None]",
    ),
    # Callbacks, samplers, workers.
    row(
        callbacks="EarlyStopping, load_best",
        model=with_callback(lambda: EarlyStopping(load_best=True), **SPLIT),
    ),
    row(
        net="train_split=None",
        callbacks="EarlyStopping",
        model=with_callback(EarlyStopping),
        refusal="watches a validation quantity",
        advice="give the net a train_split, or pass X_val",
    ),
    row(
        callbacks="yours, reads `valid_loss`",
        model=with_callback(KeepsTheBest, **SPLIT),
    ),
    row(
        callbacks="OneCycleLR for the steps of all samples",
        model=with_callback(lambda: one_cycle(6)),
    ),
    row(
        callbacks="OneCycleLR for the steps of 80 %",
        model=with_callback(lambda: one_cycle(5)),
        refusal="total steps",
        advice="set total_steps to those of round 2",
    ),
    row(
        callbacks="WeightedRandomSampler for all samples",
        model=classifier(
            mlp(2),
            CE,
            NNC,
            iterator_train__sampler=WeightedRandomSampler(np.ones(N), N),
        ),
        refusal="made for all samples",
        advice="pass an iterator_train that makes its sampler",
    ),
]


def as_markdown() -> str:
    """Return the table of all situations."""
    lines = [
        "| input | target | criterion | net | callback or sampler | result |",
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
