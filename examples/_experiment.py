"""What the experiments share: flags of data dropout, the random control, the report."""

import argparse
import multiprocessing

import numpy as np
import torch
from sklearn.base import clone


def add_flags(parser, *, epochs, batch_size):
    """Add the flags that every experiment has, with its own defaults of these."""
    training = parser.add_argument_group("training")
    training.add_argument("--epochs", type=int, default=epochs, help="per training")
    training.add_argument("--batch-size", type=int, default=batch_size)
    training.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="as torch names it: cpu, cuda, cuda:1, mps",
    )
    training.add_argument(
        "--workers",
        type=int,
        default=0,
        help="processes that read and prepare the images, per training",
    )
    dropout = parser.add_argument_group("data dropout")
    dropout.add_argument(
        "--drop-fraction",
        type=number_or_name,
        default="negative",
        help='"negative", "auto", or the share of the rows to drop, such as 0.05',
    )
    dropout.add_argument(
        "--cv",
        type=number_or_name,
        default=5,
        help="folds, one training of round 1 each; or a share such as 0.2 to hold out "
        "in a single one, which is cheaper and drops more cautiously",
    )
    dropout.add_argument(
        "--memory",
        help="folder that keeps the trainings of round 1: a run that was killed goes "
        "on there, and another --drop-fraction does not repeat them",
    )
    dropout.add_argument(
        "--n-jobs", type=int, help="trainings of round 1 at a time (default: one)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything random")


def number_or_name(text):
    """An integer or a float if the text is one, else the text."""
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def share(text):
    """A number in [0, 1)."""
    number = float(text)
    if not 0 <= number < 1:
        raise argparse.ArgumentTypeError(f"must lie in [0, 1); got {text}")
    return number


def dropout_parameters(arguments):
    """Arguments of `DataDropoutClassifier` and `DataDropoutRegressor`."""
    return {
        "drop_fraction": arguments.drop_fraction,
        "cv": arguments.cv,
        "memory": arguments.memory,
        "n_jobs": arguments.n_jobs,
        "random_state": arguments.seed,
        "verbose": 1,
    }


def net_parameters(arguments):
    """Arguments of the skorch net that do not depend on what it is trained on."""
    loader = {}
    if arguments.workers:
        # By name, as the default within a process of joblib's is its own way of
        # starting another, which torch's loaders cannot use.
        loader = {
            "num_workers": arguments.workers,
            "multiprocessing_context": multiprocessing.get_start_method(),
        }
    return {
        "max_epochs": arguments.epochs,
        "batch_size": arguments.batch_size,
        "device": arguments.device,
        "iterator_train__shuffle": True,
        **{f"iterator_train__{name}": value for name, value in loader.items()},
        **{f"iterator_valid__{name}": value for name, value in loader.items()},
        "train_split": None,
        "verbose": 0,
    }


def nets_to_compare(dropout, rows, labels, seed):
    """Nets of equal settings, trained on all rows, fewer at random, those kept.

    With nothing dropped the three are the same net, trained once.
    """
    if not dropout.n_dropped_:
        print("nothing was dropped: without dropout the net would be the same")
        return {"data dropout": dropout.estimator_}
    print("training without dropout", flush=True)
    plain = fit_net(dropout.estimator, rows, seed)
    print("training without as many rows at random", flush=True)
    kept = random_mask(dropout.sample_mask_, labels, seed)
    return {
        "no dropout": plain,
        "random drop": fit_net(dropout.estimator, rows[kept], seed),
        "data dropout": dropout.estimator_,
    }


def fit_net(net, rows, seed):
    """Train a plain net from the seed that round 2 starts from."""
    torch.manual_seed(seed)
    return clone(net).fit(rows.for_training(), None)


def random_mask(kept, labels, seed):
    """Keep as many rows of each class as `kept` does, at random."""
    rng = np.random.default_rng(seed)
    shuffled = kept.copy()
    for label in np.unique(labels):
        of_class = labels == label
        shuffled[of_class] = rng.permutation(kept[of_class])
    return shuffled


def print_dropped(dropout, spoiled):
    """What was dropped, how much of it was spoiled on purpose, and what it took."""
    dropped = ~dropout.sample_mask_
    print(f"\ndropped {dropped.sum()} of {len(dropped)} rows ({dropped.mean():.2%})")
    if spoiled.any():
        hits = np.sum(dropped & spoiled)
        precision = hits / dropped.sum() if dropped.any() else np.nan
        print(
            f"{hits} of them are among the {spoiled.sum()} spoiled ones: precision "
            f"{precision:.3f}, recall {hits / spoiled.sum():.3f}"
        )
    n_rounds = len(dropout.round_one_estimators_)
    # Column 0 of the trials is round 1 itself.
    trials = getattr(dropout, "cv_results_", {"objective": np.empty((0, 1))})
    n_trials = trials["objective"][:, 1:].size
    print(
        f"trainings: {n_rounds} of round 1, {n_trials} of trials, 1 of round 2; "
        "seconds: "
        + ", ".join(f"{name} {spent:.1f}" for name, spent in dropout.timings_.items())
    )
