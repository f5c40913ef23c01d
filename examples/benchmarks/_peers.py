"""Other libraries, asked the same question as ours.

A `Question` holds a trained module, the samples it was trained on, the held-out samples
and what is measured on them. Every function here answers it with one number per
training sample, positive for a helpful sample: the influence on the *mean* held-out
objective, up to a positive factor. Each library gets a copy of the module, as some
leave theirs frozen or rewired, and the cheapest of its ways to aggregate the
held-out samples.
"""

import copy
import importlib
import importlib.metadata
import io
import platform
import shlex
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import torch
from sklearn.base import clone
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.utils.data import DataLoader, TensorDataset

PEERS = ("kronfluence", "captum", "dattri", "cleanlab")

MAX_BYTES = 1e9
"""For the gradients of single samples where a library wants them all at once."""


class CannotAnswer(Exception):
    """The question is outside what a method can do; the message says why."""


@dataclass(frozen=True)
class Question:
    """Which training samples help the held-out objective of this module?

    Attributes
    ----------
    module : torch.nn.Module
        Trained.
    train, held_out : tuple of Tensor (X, y)
    row_losses : callable
        Training losses, (outputs, y) -> tensor of shape (n_rows,).
    row_objectives : callable
        Objective of the held-out samples, of the same form.
    is_classifier : bool
    damping : float or None
        Absolute damping, for the libraries that ask for one; ours arrived at it.
    batch_size : int
    """

    module: nn.Module
    train: tuple[Tensor, Tensor]
    held_out: tuple[Tensor, Tensor]
    row_losses: Callable[[Tensor, Tensor], Tensor]
    row_objectives: Callable[[Tensor, Tensor], Tensor]
    is_classifier: bool
    damping: float | None = None
    batch_size: int = 128

    def copy_of_module(self) -> nn.Module:
        return copy.deepcopy(self.module).eval()

    def loader(self, rows) -> DataLoader:
        return DataLoader(TensorDataset(*rows), batch_size=self.batch_size)


def make_row_losses(is_classifier) -> Callable[[Tensor, Tensor], Tensor]:
    """Cross-entropy, or the mean squared error over the elements of a sample."""
    if is_classifier:
        return lambda outputs, y: nn.functional.cross_entropy(
            outputs, y, reduction="none"
        )
    return lambda outputs, y: (outputs - y).square().flatten(1).mean(1)


def make_row_objectives(objective, row_losses, scale=1.0):
    """The held-out objective of each sample: its loss, or that squashed into [0, 1)."""
    if objective == "loss":
        return row_losses
    return lambda outputs, y: 1 - torch.exp(-row_losses(outputs, y) / scale)


def kronfluence_ekfac(question: Question) -> np.ndarray:
    """EK-FAC with the summed query gradient and the library's damping heuristic."""
    arguments = _load("kronfluence.arguments")
    with tempfile.TemporaryDirectory() as folder:
        analyzer = _kronfluence_analyzer(question, folder)
        train, held_out = (
            TensorDataset(*rows) for rows in (question.train, question.held_out)
        )
        analyzer.fit_all_factors(
            "factors", train, per_device_batch_size=question.batch_size
        )
        analyzer.compute_pairwise_scores(
            "scores",
            "factors",
            held_out,
            train,
            per_device_query_batch_size=question.batch_size,
            per_device_train_batch_size=question.batch_size,
            score_args=arguments.ScoreArguments(
                damping_factor=None, aggregate_query_gradients=True
            ),
        )
        scores = analyzer.load_pairwise_scores("scores")["all_modules"]
    return scores.sum(0).double().cpu().numpy()


def _kronfluence_analyzer(question, folder):
    kronfluence = _load("kronfluence")

    class Task(kronfluence.Task):
        def compute_train_loss(self, batch, model, sample=False):
            X, y = batch
            outputs = model(X)
            if sample:
                y = _sampled_targets(outputs.detach(), question.is_classifier)
            return question.row_losses(outputs, y).sum()

        def compute_measurement(self, batch, model):
            X, y = batch
            return question.row_objectives(model(X), y).sum()

    task = Task()
    module = kronfluence.prepare_model(question.copy_of_module(), task)
    return kronfluence.Analyzer(
        "benchmark",
        module,
        task,
        cpu=not next(module.parameters()).is_cuda,
        disable_tqdm=True,
        output_dir=folder,
    )


def _sampled_targets(outputs, is_classifier):
    """Targets drawn from the model, for the Fisher information of the sample losses."""
    if is_classifier:
        return torch.distributions.Categorical(logits=outputs).sample()
    # The Hessian of a mean of squares over d elements is 2/d, and the covariance of
    # its gradient 4 sigma^2 / d^2: equal for sigma^2 = d/2.
    sigma = (outputs[0].numel() / 2) ** 0.5
    return outputs + sigma * torch.randn_like(outputs)


def captum_tracin(question: Question) -> np.ndarray:
    """First order in the convolutions and linear layers, a batch at a time.

    The way that knows every layer takes each sample by itself, and does not run on
    gradients that are not contiguous.
    """
    influence = _load("captum.influence")
    layers = [
        name
        for name, layer in question.module.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    tracer = _captum(
        influence.TracInCP, question, sample_wise_grads_per_batch=True, layers=layers
    )
    scores = tracer.influence(question.loader(question.held_out), aggregate=True)
    return scores[0].double().cpu().numpy()


def captum_tracin_fast(question: Question) -> np.ndarray:
    """First order in the last, linear layer only."""
    influence = _load("captum.influence")
    name, layer = list(question.module.named_modules())[-1]
    if not isinstance(layer, nn.Linear):
        raise CannotAnswer("needs a linear last layer")
    tracer = _captum(influence.TracInCPFast, question, final_fc_layer=name)
    return tracer.influence(question.held_out).sum(0).double().cpu().numpy()


def _captum(kind, question, **options):
    return kind(
        model=question.copy_of_module(),
        train_dataset=question.loader(question.train),
        checkpoints=[question.module.state_dict()],
        checkpoints_load_func=_load_weights,
        loss_fn=_summed(question.row_losses),
        test_loss_fn=_summed(question.row_objectives),
        **options,
    )


def _load_weights(module, state_dict):
    module.load_state_dict(state_dict)
    return 1.0  # stands for the learning rate


def _summed(row_values):
    def total(outputs, y):
        return row_values(outputs, y).sum()

    return total


def rows_that_fit(module, at_most) -> int:
    """Number of samples whose gradients take no more than `MAX_BYTES` together."""
    n_parameters = sum(p.numel() for p in module.parameters())
    return min(at_most, max(1, int(MAX_BYTES // (4 * n_parameters))))


def dattri_conjugate_gradient(question: Question) -> np.ndarray:
    """Ten iterations on the Hessian, in one batch: dattri adds up inverses of batches.

    The held-out set is passed off as one test sample, so that one system is solved per
    batch of training samples.
    """
    influence_function = _load("dattri.algorithm.influence_function")
    attributor = influence_function.IFAttributorCG(
        _dattri_task(question, question.row_losses, question.row_objectives),
        max_iter=10,
        regularization=question.damping,
        device=str(question.train[0].device),
    )
    dataset = TensorDataset(*question.train)
    attributor.cache(DataLoader(dataset, batch_size=len(dataset)))
    loader = DataLoader(
        dataset, batch_size=rows_that_fit(question.module, len(dataset))
    )
    scores = attributor.attribute(loader, _as_one_row(question.held_out))
    return scores[:, 0].detach().double().cpu().numpy()


def dattri_trak(question: Question) -> np.ndarray:
    """TRAK at one checkpoint: random projections of the gradients of the margin."""
    if not question.is_classifier:
        raise CannotAnswer("classification only")
    trak = _load("dattri.algorithm.trak")

    def margins(outputs, y):
        log_p = -question.row_losses(outputs, y)
        return log_p - torch.log1p(-torch.exp(log_p) + 1e-6)

    def helpfulness(outputs, y):
        return -question.row_objectives(outputs, y)

    module = question.copy_of_module()

    def probability(params, row):
        outputs, y = _forward(question, module, params, row)
        return torch.exp(-question.row_losses(outputs, y))

    attributor = trak.TRAKAttributor(
        _dattri_task(question, margins, helpfulness),
        correct_probability_func=probability,
        projector_kwargs={"proj_dim": min(512, len(question.train[0]) // 2)},
        regularization=1e-6,
    )
    attributor.cache(question.loader(question.train))
    return (
        attributor.attribute(_as_one_row(question.held_out))[:, 0]
        .double()
        .cpu()
        .numpy()
    )


def _dattri_task(question, row_losses, row_objectives):
    module = question.copy_of_module()

    def mean_of(row_values):
        def function(params, rows):
            return row_values(*_forward(question, module, params, rows)).mean()

        return function

    return _load("dattri.task").AttributionTask(
        loss_func=mean_of(row_losses),
        model=module,
        checkpoints=question.module.state_dict(),
        target_func=mean_of(row_objectives),
    )


def _forward(question, module, params, rows):
    """Outputs and targets of samples that come with any number of leading axes."""
    X, y = (
        values.reshape(-1, *like.shape[1:])
        for values, like in zip(rows, question.train, strict=True)
    )
    return functional_call(module, params, X), y


def _as_one_row(rows) -> DataLoader:
    return DataLoader(TensorDataset(*(values[None] for values in rows)), batch_size=1)


def gradient_dots(question: Question) -> np.ndarray:
    """Plain torch: the gradient of each sample by vmap, times that of the objective."""
    module = question.copy_of_module()
    params = {k: p.detach() for k, p in module.named_parameters()}

    def row_loss(params, X, y):
        return question.row_losses(
            functional_call(module, params, X[None]), y[None]
        ).sum()

    def objective(params, X, y):
        return question.row_objectives(functional_call(module, params, X), y).sum()

    direction = {k: torch.zeros_like(p) for k, p in params.items()}
    for X, y in question.loader(question.held_out):
        for name, gradient in grad(objective)(params, X, y).items():
            direction[name] += gradient
    row_gradients = vmap(grad(row_loss), in_dims=(None, 0, 0))
    scores = [
        sum(
            gradients.flatten(1) @ direction[name].flatten()
            for name, gradients in row_gradients(params, X, y).items()
        )
        for X, y in question.loader(question.train)
    ]
    return torch.cat(scores).double().cpu().numpy()


def cleanlab_quality(net, X, y, seed: int) -> np.ndarray:
    """Label quality by five-fold probabilities of the same net."""
    rank = _load("cleanlab.rank")
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = clone(net).set_params(verbose=0)
        probabilities = cross_val_predict(net, X, y, cv=folds, method="predict_proba")
    return rank.get_label_quality_scores(np.asarray(y), probabilities)


def answer(method, *arguments) -> tuple[np.ndarray | None, str]:
    """Scores and an empty note, or None and the reason, for a line of a table."""
    try:
        with _silence():
            return method(*arguments), ""
    except ImportError as error:
        return None, f"not installed ({error.name})"
    except CannotAnswer as error:
        return None, str(error)
    except Exception as error:
        return None, f"failed: {type(error).__name__}: {str(error)[:160]}"


@contextmanager
def _silence() -> Iterator[None]:
    """Without the warnings and progress bars of other libraries."""
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def _load(name):
    return importlib.import_module(name)


def environment() -> dict:
    """Return all that a figure depends on besides the code that made it."""
    packages = ("sk_datadrop", "torch", "torchvision", "skorch", "scikit-learn")
    return {
        "date": date.today().isoformat(),
        "command": shlex.join([Path(sys.argv[0]).name, *map(_portable, sys.argv[1:])]),
        "machine": f"{platform.system()} {platform.machine()}, {_processor()}",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in (*packages, "numpy", *PEERS)},
    }


def _portable(word) -> str:
    """Return the name alone of what has an absolute path on this machine."""
    return Path(word).name if Path(word).is_absolute() else word


def _version(package) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor() or "processor unknown"
