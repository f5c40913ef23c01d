"""Influence of the rows of a net that somebody else trained."""

import warnings
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch
from sklearn.base import is_classifier, is_regressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_consistent_length, check_random_state
from skorch import NeuralNet
from skorch.exceptions import NotInitializedError
from torch import nn

from sk_datadrop._checks import check_count, check_kind
from sk_datadrop._curvature import Curvature, GaussNewton
from sk_datadrop._drop import mean_influence
from sk_datadrop._functional import FunctionalNet
from sk_datadrop._influence import check_autocast, influence
from sk_datadrop._objectives import check_objective
from sk_datadrop._rows import as_rows, with_own_targets
from sk_datadrop._solvers import Lanczos, Solver, SolverResult

_LIKELIHOODS = (
    nn.CrossEntropyLoss,
    nn.NLLLoss,
    nn.BCEWithLogitsLoss,
    nn.BCELoss,
)
"""Criteria of classes, even where the targets are probabilities."""


@dataclass(frozen=True)
class InfluenceResult:
    """What :func:`influence_scores` found.

    A record; its fields are attributes of the same names.

    Parameters
    ----------
    influence : ndarray of shape (n_samples,), dtype float64
        Mean over the views. Positive is helpful, negative harmful: the predicted
        increase of the held-out objective if the row were removed.
    influence_per_view : ndarray of shape (n_views, n_samples), dtype float64
        One view per checkpoint and group of held-out rows, groups varying first.
    solver_results : list of SolverResult
        One per checkpoint.
    derivative : str
        How the net was differentiated along directions: "forward mode", "reverse
        over reverse" (both exact) or "finite differences".
    seconds : float
        Time spent.

    See Also
    --------
    influence_scores : Makes it.

    Examples
    --------
    >>> import numpy as np
    >>> from sk_datadrop import InfluenceResult
    >>> result = InfluenceResult(
    ...     influence=np.array([1.0, -1.0]),
    ...     influence_per_view=np.array([[1.0, -1.0]]),
    ...     solver_results=[],
    ...     derivative="forward mode",
    ...     seconds=0.1,
    ... )
    >>> result.influence.argmin().item()
    1
    """

    influence: np.ndarray
    influence_per_view: np.ndarray
    solver_results: list[SolverResult]
    derivative: str
    seconds: float


def influence_scores(
    net,
    X,
    y,
    X_val,
    y_val,
    *,
    loss=None,
    objective="bounded",
    checkpoints=None,
    n_groups=1,
    curvature=None,
    solver=None,
    batch_size=None,
    autocast=None,
    n_jobs=None,
    random_state=None,
) -> InfluenceResult:
    """Score training rows by their influence on held-out rows, for a trained net.

    For those who train elsewhere; `DataDropoutClassifier` and
    `DataDropoutRegressor` train, score, drop and retrain by themselves. The net is
    left as found: weights, buffers, gradients and modes.

    Parameters
    ----------
    net : skorch.NeuralNet or torch.nn.Module
        Trained net. A plain module needs `loss`.
    X, y : array-like of shape (n_samples, ...), Dataset or None
        Rows it was trained on, as it takes them: arrays or tensors. X may be a data
        set, and y then None if targets are among its items.
    X_val, y_val : array-like of shape (n_val, ...), Dataset or None
        Rows it was not trained on, at least two.
    loss : torch.nn.Module, callable or None, default=None
        Training loss for a plain module: a criterion of torch, or a function
        ``loss(outputs, y) -> tensor of shape (n_rows,)``. A skorch net brings its
        own.
    objective : {"bounded", "loss"} or callable, default="bounded"
        What the held-out rows measure. "bounded" is ``1 - exp(-loss)`` averaged over
        the classes where the targets are classes, which under cross-entropy is one
        minus the probability of the true class, and
        ``1 - exp(-loss / (2.985**2 median(loss)))`` elsewhere; "loss" is the training
        loss; a callable gets (outputs, y) and returns a tensor of shape (n_rows,),
        lower being better. Targets are classes to a skorch classifier, and not to a
        skorch regressor. To other nets they are under CrossEntropyLoss, NLLLoss,
        BCELoss and BCEWithLogitsLoss of torch and, whatever the loss, where they are
        integers and the outputs have one more axis, of several classes.
    checkpoints : list of dict or None, default=None
        State dicts of several epochs of the training, to average over; None takes
        the net as it is. Scores are best before the net memorises.
    n_groups : int, default=1
        Number of random groups of the held-out rows, each a view.
    curvature : Curvature or None, default=None
        None takes ``GaussNewton()``.
    solver : Solver or None, default=None
        None takes ``Lanczos()``.
    batch_size : int or None, default=None
        Rows per forward pass; None takes that of the skorch net, or 128. The
        scores depend on it by rounding only.
    autocast : {"bfloat16", "float16"} or None, default=None
        Precision in which the net runs as it scores the rows, with torch.autocast;
        gradient and curvature of the objective keep the full one. Faster where the
        hardware has it; the rank correlation with full precision was .9994 and more.
    n_jobs : int or None, default=None
        Number of processes of joblib's that share the rows. The result is the same.
    random_state : int, RandomState instance or None, default=None
        Draws the groups and the rows of the curvature.

    Returns
    -------
    InfluenceResult
        Scores, and how they were reached.

    Raises
    ------
    TypeError
        If `net` is neither, a plain module has no `loss` or a skorch net one, or
        `curvature` or `solver` is of another kind.
    ValueError
        If the net is not initialized, lengths differ, fewer than two held-out
        rows are given, or a parameter is out of range.

    Warns
    -----
    ConvergenceWarning
        If a system could not be solved; where it could not at all, the views of
        that checkpoint are NaN and take no part in the mean.

    See Also
    --------
    DataDropoutClassifier : Trains, scores, drops and retrains.
    DataDropoutRegressor : The same for targets of any shape.

    References
    ----------
    Koh, Liang (2017). Understanding black-box predictions via influence
    functions. arXiv:1703.04730

    Examples
    --------
    >>> import torch
    >>> from sk_datadrop import influence_scores
    >>> X = torch.linspace(-1, 1, 20)[:, None]
    >>> y = 2 * X
    >>> y[0] = 5
    >>> module = torch.nn.Linear(1, 1)
    >>> with torch.no_grad():
    ...     solution = torch.linalg.lstsq(X, y).solution
    ...     _ = module.weight.copy_(solution), module.bias.zero_()
    >>> result = influence_scores(
    ...     module, X, y, X[1:] + 0.05, y[1:] + 0.1, loss=torch.nn.MSELoss()
    ... )
    >>> int(result.influence.argmin())
    0
    """
    start = perf_counter()
    skorch_net = _as_skorch_net(net, loss, batch_size)
    check_objective(objective)
    check_autocast(autocast)
    check_kind("curvature", curvature, Curvature, optional=True)
    check_kind("solver", solver, Solver, optional=True)
    X, y = _rows_and_targets(X, y)
    X_val, y_val = _rows_and_targets(X_val, y_val)
    if checkpoints is not None and not len(checkpoints):
        raise ValueError(
            "checkpoints is empty; pass at least one state dict, or None for the "
            "net as it is."
        )
    _check_not_empty(X=X, y=y, X_val=X_val, y_val=y_val)
    check_consistent_length(X, y)
    check_consistent_length(X_val, y_val)
    if len(X_val) < 2:
        raise ValueError(
            f"X_val holds {len(X_val)} row(s); influence is measured on held-out rows "
            "and needs at least two."
        )
    check_count("n_groups", n_groups)
    if n_groups > len(X_val):
        raise ValueError(
            f"n_groups must be at most the number of held-out rows ({len(X_val)}); got "
            f"{n_groups!r}."
        )
    seed = check_random_state(random_state).randint(2**31 - 1)
    nets = _at_checkpoints(skorch_net, checkpoints)
    for rows in ((X, y), (X_val, y_val)):
        nets[0].check_loss(*rows)
    is_classification = _is_classification(nets[0], X_val, y_val)
    influences = [
        influence(
            net_,
            (X, y),
            (X_val, y_val),
            objective=objective,
            is_classification=is_classification,
            curvature=GaussNewton() if curvature is None else curvature,
            solver=Lanczos() if solver is None else solver,
            n_groups=int(n_groups),
            random_state=np.random.default_rng(seed),
            score_held_out=False,
            batch_size=batch_size,
            autocast=autocast,
            n_jobs=n_jobs,
        )
        for net_ in nets
    ]
    per_view = np.concatenate([i.train for i in influences])
    results = [i.solver_result for i in influences if i.solver_result]
    for result in results:
        if result.message:
            warnings.warn(result.message, ConvergenceWarning, stacklevel=2)
    return InfluenceResult(
        influence=mean_influence(per_view),
        influence_per_view=per_view,
        solver_results=results,
        derivative=str(influences[0].derivative),
        seconds=perf_counter() - start,
    )


def _check_not_empty(**arrays) -> None:
    for name, values in arrays.items():
        if values is None or not hasattr(values, "__len__") or not len(values):
            raise ValueError(f"{name} holds no rows; got {values!r}. Pass one or more.")


def _at_checkpoints(net, checkpoints) -> list[FunctionalNet]:
    if checkpoints is None:
        return [FunctionalNet(net)]
    try:
        return [FunctionalNet(net, state_dict) for state_dict in checkpoints]
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"checkpoints must be a list of state dicts of the module: {error}"
        ) from error


def _rows_and_targets(X, y) -> tuple:
    y = _as_array(y)
    if (rows := as_rows(X)) is None:
        return _as_array(X), y
    rows, y = with_own_targets(rows, y)
    return rows.with_targets(y), y


def _as_array(values):
    """Turn lists and pandas into arrays, whose rows are taken by position."""
    if isinstance(values, torch.Tensor):
        return values.detach()
    is_table = isinstance(values, list | tuple) or hasattr(values, "iloc")
    return np.asarray(values) if is_table else values


class _RowLoss(nn.Module):
    """A function of (outputs, y) in the guise of a criterion."""

    reduction = "mean"

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, outputs, y):
        return self.function(outputs, y)


def _as_skorch_net(net, loss, batch_size) -> NeuralNet:
    if isinstance(net, NeuralNet):
        if not net.initialized_:
            raise NotInitializedError(
                f"this {type(net).__name__} is not trained. Call its fit first."
            )
        if loss is not None:
            raise TypeError(
                f"a {type(net).__name__} was trained with its own criterion, by which "
                f"its rows are scored; got loss={loss!r}. Leave loss out, or pass "
                "net.module_."
            )
        return net
    if not isinstance(net, nn.Module):
        raise TypeError(
            "net must be a trained skorch net or torch module; got "
            f"{type(net).__name__}."
        )
    if not callable(loss):
        raise TypeError(
            "a plain module needs the loss it was trained with: pass loss=, a torch "
            f"criterion or a function (outputs, y) -> losses of the rows; got {loss!r}."
        )
    criterion = loss if isinstance(loss, nn.Module) else _RowLoss(loss)
    return NeuralNet(
        net,
        criterion=criterion,
        device=next(net.parameters(), torch.empty(0)).device,
        batch_size=batch_size or 128,
        verbose=0,
    ).initialize()


def _is_classification(net: FunctionalNet, X, y) -> bool:
    """Whether the targets are classes, as they are to `DataDropoutClassifier`.

    A net that scikit-learn takes for a classifier or a regressor is one. Of any other
    the targets decide, as a criterion may be anything: class numbers are integers, and
    lack the axis of the outputs that counts the classes.
    """
    if is_classifier(net.skorch_net) or is_regressor(net.skorch_net):
        return is_classifier(net.skorch_net)
    if isinstance(net.skorch_net.criterion_, _LIKELIHOODS):
        return True
    Xb, yb = next(net.batches(X[:1], y[:1]))
    raw = net.raw_outputs(net.theta, Xb)
    is_label = not yb.is_floating_point() and raw.ndim == yb.ndim + 1
    return is_label and raw.shape[1] > 1
