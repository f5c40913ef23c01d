"""Influence of training samples on a net that was trained elsewhere."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
import torch
from sklearn.base import is_classifier, is_regressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import Pipeline
from sklearn.utils import check_consistent_length, check_random_state
from skorch import NeuralNet
from skorch.exceptions import NotInitializedError
from torch import nn

from sk_datadrop._casting import Casting
from sk_datadrop._drop import mean_influence
from sk_datadrop._engine import Request, check_engine, score
from sk_datadrop._functional import FunctionalNet
from sk_datadrop._influence import InfluenceFunctions
from sk_datadrop._inputs import refuse_iterators
from sk_datadrop._lazy import DatasetRows, cast_as, with_own_targets
from sk_datadrop._net_checks import check_loss
from sk_datadrop._objective import HeldOutObjective, Kind, check_objective
from sk_datadrop._plan import check_held_out
from sk_datadrop._probe import castings_for, first_that_works, read_outputs
from sk_datadrop._reading import Reading
from sk_datadrop._rereading import say_random
from sk_datadrop._safeguards import DataDropoutWarning
from sk_datadrop._samples import Samples, class_codes
from sk_datadrop._solvers import SolverResult
from sk_datadrop._training import Checkpoint, Training


@dataclass(frozen=True)
class InfluenceResult:
    """Result of :func:`influence_scores`.

    Its fields are attributes of the same names.

    Parameters
    ----------
    influence : ndarray of shape (n_samples,), dtype float64
        Mean over the views. Positive is helpful, negative harmful: the predicted
        increase of the held-out objective if the sample were removed.
    influence_per_view : ndarray of shape (n_views, n_samples), dtype float64
        One view per checkpoint and group of held-out samples, groups varying first.
    solver_results : list of SolverResult
        One per checkpoint.
    derivative : str
        Method that differentiated the net along directions: "forward mode", "reverse
        over reverse" (both exact) or "finite differences".
    seconds : float
        Time spent, in seconds.

    See Also
    --------
    influence_scores : Returns it.

    Examples
    --------
    >>> import numpy as np
    >>> from sk_datadrop import InfluenceResult
    >>> views = np.array([[1.0, -1.0], [2.0, -1.0]])
    >>> result = InfluenceResult(views.mean(axis=0), views, [], "forward mode", 0.1)
    >>> result.influence.tolist()
    [1.5, -1.0]
    """

    influence: np.ndarray
    influence_per_view: np.ndarray
    solver_results: list[SolverResult]
    derivative: str
    seconds: float


def influence_scores(
    net: Any,
    X: Any,
    y: Any,
    X_val: Any,
    y_val: Any,
    *,
    loss: Any = None,
    objective: Kind = "bounded",
    engine: InfluenceFunctions | None = None,
    checkpoints: Sequence[dict[str, torch.Tensor]] | None = None,
    batch_size: int | None = None,
    n_jobs: int | None = None,
    random_state: Any = None,
) -> InfluenceResult:
    """Score training samples by their influence on held-out samples, for a trained net.

    The net was trained elsewhere. Its weights, buffers, gradients and modes are left
    as they are.

    Parameters
    ----------
    net : skorch.NeuralNet or torch.nn.Module
        Trained net. A plain module needs `loss`.
    X, y : array-like of shape (n_samples, ...), Dataset or None
        Samples that the net was trained on: arrays or tensors, as the net takes them,
        in single or double precision. X may be a data set; y is then None if the items
        hold the targets.
    X_val, y_val : array-like of shape (n_val, ...), Dataset or None
        Samples that the net was not trained on, at least two.
    loss : torch.nn.Module, callable or None, default=None
        Training loss of a plain module: a criterion of torch, or a function
        ``loss(outputs, y) -> tensor of shape (n_samples,)``. A skorch net has its own.
    objective : {"bounded", "loss"} or callable, default="bounded"
        Quantity measured on the held-out samples. "bounded" is one minus the
        probability of the given class, averaged over the classes, or over the labels,
        tags or pixels of a sample. For other targets it is
        ``1 - exp(-loss / (2.985**2 median(loss)))``. "loss" is the training loss; a
        callable gets (outputs, y) and returns a tensor of shape (n_samples,), lower
        being better. Targets are classes if the net is a skorch classifier, and real
        if it is a skorch regressor. For other nets they are classes if the loss is a
        torch criterion for classes, or if y holds integers and the outputs have one
        more axis, of several classes.
    engine : InfluenceFunctions or None, default=None
        Scores the samples. None uses ``InfluenceFunctions()``. `n_groups` of None makes
        one group of the held-out samples; `n_checkpoints` is not used.
    checkpoints : list of dict or None, default=None
        State dicts of several epochs of the training, to average over; None uses the
        net as it is. Scores are best before the net memorises.
    batch_size : int or None, default=None
        Samples per forward pass. None uses that of the skorch net, or 128.
    n_jobs : int or None, default=None
        Number of joblib worker processes. Results are those of one process, but for
        rounding.
    random_state : int, RandomState instance or None, default=None
        Draws the groups and the samples of the curvature.

    Returns
    -------
    InfluenceResult
        Scores, and a report of each solve. If a system was not solved precisely, a
        ConvergenceWarning says so. Views of a checkpoint whose system has no solution
        are NaN and left out of the means.

    See Also
    --------
    DataDropoutClassifier : Trains, scores, drops and retrains.

    Examples
    --------
    >>> import torch
    >>> from sk_datadrop import influence_scores
    >>> X = X_val = torch.linspace(-1, 1, 20)[:, None]
    >>> y, y_val = 2 * X, 2 * X
    >>> y[0] = 5
    >>> net = torch.nn.Linear(1, 1, bias=False)
    >>> net.weight.data = torch.linalg.lstsq(X, y).solution
    >>> result = influence_scores(net, X, y, X_val, y_val, loss=torch.nn.MSELoss())
    >>> int(result.influence.argmin())
    0
    """
    start = perf_counter()
    skorch_net = _as_skorch_net(net, loss, batch_size)
    check_objective(objective)
    engine = _checked_engine(engine)
    samples, held_out = _as_samples(X, y, ""), _as_samples(X_val, y_val, "_val")
    check_held_out(len(held_out), "X_val")
    n_groups = 1 if engine.n_groups is None else engine.n_groups
    if n_groups > len(held_out):
        raise ValueError(
            "n_groups must be at most the number of held-out samples "
            f"({len(held_out)}); got {n_groups!r}."
        )
    first = _check_checkpoints(skorch_net, checkpoints)
    samples, held_out = _cast(skorch_net, first, samples, held_out)
    held_out, reading = _with_codes(first, held_out)
    states = enumerate([None] if checkpoints is None else checkpoints, 1)
    training = Training(skorch_net, [Checkpoint(*numbered) for numbered in states])
    seed = check_random_state(random_state).randint(2**31 - 1)
    request = Request(
        seed, n_groups, score_held_out=False, batch_size=batch_size, n_jobs=n_jobs
    )
    measured = HeldOutObjective(objective, held_out, reading)
    scores = score(engine, training, samples, measured, request)
    for result in scores.solver_results:
        if result.message:
            warnings.warn(result.message, ConvergenceWarning, stacklevel=2)
    return InfluenceResult(
        influence=mean_influence(scores.train),
        influence_per_view=scores.train,
        solver_results=scores.solver_results,
        derivative=str(scores.derivative),
        seconds=perf_counter() - start,
    )


def _checked_engine(given: Any) -> InfluenceFunctions:
    if not isinstance(given, InfluenceFunctions | None):
        raise TypeError(
            f"engine must be InfluenceFunctions(...) or None; got {given!r}."
        )
    engine = InfluenceFunctions() if given is None else given
    check_engine(engine)
    return engine


def _check_checkpoints(net: NeuralNet, checkpoints: Any) -> FunctionalNet:
    """Return the net at the first checkpoint, after a check of all checkpoints."""
    if checkpoints is None:
        return FunctionalNet(net)
    if not len(checkpoints):
        raise ValueError(
            "checkpoints is empty; pass at least one state dict, or None for the "
            "net as it is."
        )
    try:
        nets = [FunctionalNet(net, state_dict) for state_dict in checkpoints]
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"checkpoints must be a list of state dicts of the module: {error}"
        ) from error
    return nets[0]


def _as_samples(X: Any, y: Any, suffix: str) -> Samples:
    refuse_iterators(X)
    X, y = with_own_targets(X, _as_array(y))
    X = _as_array(X)
    for name, values in (("X", X), ("y", y)):
        if values is None or not hasattr(values, "__len__") or not len(values):
            raise ValueError(
                f"{name}{suffix} holds no samples; got {values!r}. Pass one or more."
            )
    check_consistent_length(X, y)
    return Samples.of(X, y)


def _cast(
    net: NeuralNet, first: FunctionalNet, samples: Samples, held_out: Samples
) -> tuple[Samples, Samples]:
    """Check the losses of both, in the dtypes that the net takes.

    Arrays are as given, except for single and double precision. Warns of samples that
    are read differently each time.
    """
    cast = []
    for name, given in (("X", samples), ("X_val", held_out)):
        if isinstance(given.X, DatasetRows):
            given = first_that_works(
                partial(_checked, first, given), castings_for(net, given.X)
            )
        else:
            X, y = (_in_floats_of(net.module_, values) for values in (given.X, given.y))
            given = Samples(X, y, given.codes)
            check_loss(first, given)
        if (note := say_random(net, given, 0, name)) is not None:
            warnings.warn(note, DataDropoutWarning, stacklevel=3)
        cast.append(given)
    return cast[0], cast[1]


def _checked(net: FunctionalNet, samples: Samples, casting: Casting) -> Samples:
    cast = Samples.of(cast_as(samples.X, casting), samples.y, samples.codes)
    check_loss(net, cast)
    return cast


def _in_floats_of(module: nn.Module, values: Any) -> Any:
    """Return single and double precision numbers in that of the parameters."""
    name = str(getattr(values, "dtype", "")).removeprefix("torch.")
    if name not in ("float32", "float64"):
        return values
    is_double = any(p.dtype == torch.float64 for p in module.parameters())
    if isinstance(values, torch.Tensor):
        return values.double() if is_double else values.float()
    return values.astype(np.float64 if is_double else np.float32, copy=False)


def _as_array(values: Any) -> Any:
    """Make arrays of lists and pandas, whose samples are indexed by position."""
    if isinstance(values, torch.Tensor):
        return values.detach()
    is_table = isinstance(values, list | tuple) or hasattr(values, "iloc")
    return np.asarray(values) if is_table else values


class _SampleLoss(nn.Module):
    """A function of (outputs, y) in the guise of a criterion."""

    reduction = "mean"

    def __init__(self, function: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.function(outputs, y)


def _as_skorch_net(net: Any, loss: Any, batch_size: int | None) -> NeuralNet:
    if isinstance(net, NeuralNet):
        if not net.initialized_:
            raise NotInitializedError(
                f"this {type(net).__name__} is not trained. Call its fit first."
            )
        if loss is not None:
            raise TypeError(
                f"a {type(net).__name__} was trained with its own criterion, by which "
                f"its samples are scored; got loss={loss!r}. Leave loss out, or pass "
                "net.module_."
            )
        return net
    if not isinstance(net, nn.Module):
        advice = ""
        if isinstance(net, Pipeline):
            advice = (
                " Pass the net, its last step, and X as the steps before transform it: "
                "influence_scores(pipe[-1], pipe[:-1].transform(X), ...)."
            )
        raise TypeError(
            "net must be a trained skorch net or torch module; got "
            f"{type(net).__name__}.{advice}"
        )
    if not callable(loss):
        raise TypeError(
            "a plain module needs the loss it was trained with: pass loss=, a torch "
            "criterion or a function (outputs, y) -> tensor of shape (n_samples,); got "
            f"{loss!r}."
        )
    criterion = loss if isinstance(loss, nn.Module) else _SampleLoss(loss)
    device = next(net.parameters(), torch.empty(0)).device
    skorch_net = NeuralNet(
        net, criterion=criterion, device=device, batch_size=batch_size or 128, verbose=0
    )
    return skorch_net.initialize()


def _with_codes(net: FunctionalNet, samples: Samples) -> tuple[Samples, Reading | None]:
    """Return samples with their classes, and how chances of these are read.

    A net that scikit-learn considers a classifier or a regressor tells whether targets
    are classes, and of others the criterion. Where it may be anything, the targets do.
    """
    is_known = is_classifier(net.skorch_net) or is_regressor(net.skorch_net)
    is_classification = is_classifier(net.skorch_net) if is_known else None
    reading = read_outputs(net, samples, is_classification)
    if reading is None or np.shape(samples.y[:1])[1:] not in ((), (1,)):
        return samples, reading
    return replace(samples, codes=class_codes(samples.y)), reading
