"""Command-line flags, random control and report that the experiments share."""

import argparse
import multiprocessing

import numpy as np
import torch
from sklearn.base import clone

from sk_datadrop import DatasetRows


class Help(
    argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter
):
    """Help that shows defaults, and the description as it is written."""


def add_flags(parser, *, epochs, batch_size):
    """Add the flags that every experiment has, with its own defaults."""
    training = parser.add_argument_group("training")
    training.add_argument(
        "--epochs", type=int, default=epochs, help="epochs of a training"
    )
    training.add_argument(
        "--batch-size", type=int, default=batch_size, help="samples of a batch"
    )
    training.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="device of torch: cpu, cuda, cuda:1, mps",
    )
    training.add_argument(
        "--workers",
        type=int,
        default=0,
        help="processes of a training that read and prepare images",
    )
    dropout = parser.add_argument_group("data dropout")
    dropout.add_argument(
        "--drop-fraction",
        type=number_or_name,
        default="harmful",
        help='samples to drop: "harmful", "auto", or a share such as 0.05',
    )
    dropout.add_argument(
        "--cv",
        type=number_or_name,
        default=3,
        help="number of folds, each of which is a training of round 1; or a share such "
        "as 0.2 to hold out in a single training, which is cheaper and less reliable",
    )
    dropout.add_argument(
        "--memory",
        help="folder that stores the trainings of round 1; a run that was killed, or "
        "one with another --drop-fraction, does not repeat them",
    )
    dropout.add_argument("--n-jobs", type=int, help="parallel trainings in round 1")
    parser.add_argument("--seed", type=int, default=0, help="seed of the run")


def number_or_name(text):
    """Return an integer or a float if the text is one, else the text."""
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def share(text):
    """Return a number in [0, 1)."""
    number = float(text)
    if not 0 <= number < 1:
        raise argparse.ArgumentTypeError(f"must lie in [0, 1); got {text}")
    return number


def dropout_parameters(arguments):
    """Return arguments of `DataDropoutClassifier` and `DataDropoutRegressor`."""
    return {
        "drop_fraction": arguments.drop_fraction,
        "cv": arguments.cv,
        "memory": arguments.memory,
        "n_jobs": arguments.n_jobs,
        "random_state": arguments.seed,
        "verbose": 1,
    }


def net_parameters(arguments):
    """Return arguments of the skorch net that are the same for every data set."""
    loader = {}
    if arguments.workers:
        # The name is needed: inside a process of joblib the default is joblib's own
        # way of starting processes, which the loaders of torch cannot use.
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


def nets_to_compare(dropout, samples, labels, seed):
    """Return nets trained on all samples, on fewer at random, and on those kept.

    All take as many optimiser steps. With nothing dropped the three are the same net,
    trained once. Labels are None for targets that are images.
    """
    if not dropout.n_dropped_:
        print("nothing was dropped: without dropout the net would be the same")
        return {"data dropout": dropout.estimator_}
    samples = augmented(samples, labels)
    print("training without dropout", flush=True)
    plain = fit_net(dropout.estimator, samples, seed)
    print("training without as many random samples", flush=True)
    kept = random_mask(dropout.sample_mask_, labels, seed)
    rows = as_many_rows(kept, seed)
    return {
        "no dropout": plain,
        "random drop": fit_net(dropout.estimator, samples[rows], seed),
        "data dropout": dropout.estimator_,
    }


def augmented(samples, labels):
    """Return the samples as round 2 sees them."""
    source = samples.dataset if samples.augmented is None else samples.augmented
    seen = DatasetRows(source)
    return seen if labels is None else seen.with_targets(labels)


def fit_net(net, samples, seed):
    """Train a plain net from the seed that round 2 starts from."""
    torch.manual_seed(seed)
    return clone(net).fit(samples, None)


def random_mask(kept, labels, seed):
    """Return a random mask that keeps as many samples of each class as `kept`."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(len(kept)) if labels is None else labels
    shuffled = kept.copy()
    for label in np.unique(labels):
        of_class = labels == label
        shuffled[of_class] = rng.permutation(kept[of_class])
    return shuffled


def as_many_rows(kept, seed):
    """Return positions of kept samples, some repeated, as many as there are samples.

    Round 2 does the same, so an epoch has as many optimiser steps as with all samples.
    """
    shuffled = np.random.default_rng(seed).permutation(np.flatnonzero(kept))
    return np.sort(np.resize(shuffled, len(kept)))


def print_dropped(dropout, spoiled):
    """Print the number of samples dropped, how many of them are wrong, and the cost."""
    dropped = ~dropout.sample_mask_
    print(f"\ndropped {dropped.sum()} of {len(dropped)} samples ({dropped.mean():.2%})")
    if spoiled.any():
        hits = np.sum(dropped & spoiled)
        precision = hits / dropped.sum() if dropped.any() else np.nan
        print(
            f"{hits} of them are among the {spoiled.sum()} wrong ones: precision "
            f"{precision:.3f}, recall {hits / spoiled.sum():.3f}"
        )
    n_splits = len(dropout.round_one_estimators_)
    # Column 0 holds the nets of round 1, which needed no training of their own.
    results = getattr(dropout, "cv_results_", {"objective": np.empty((0, 1))})
    n_candidates = results["objective"][:, 1:].size
    print(
        f"trainings: {n_splits} of round 1, {n_candidates} of candidates, 1 of round 2;"
        " seconds: "
        + ", ".join(f"{name} {spent:.1f}" for name, spent in dropout.timings_.items())
    )
