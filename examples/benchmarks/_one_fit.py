"""A script as a user has it, for `whole_fit.py`: one fit, and its stages.

Arguments: number of splits, threads ("set to 2" calls ``torch.set_num_threads``),
workers, epochs, and a file with the samples.
"""

import sys

import numpy as np
import torch
from skorch import NeuralNetClassifier

from sk_datadrop import DataDropoutClassifier
from sk_datadrop.nets import SmallCNN


def main():
    cv, threads, n_jobs, epochs, path = sys.argv[1:]
    if threads == "set to 2":
        torch.set_num_threads(2)
    samples = np.load(path)
    net = NeuralNetClassifier(
        SmallCNN,
        module__channels=(8, 16),
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=0.001,
        batch_size=32,
        max_epochs=int(epochs),
        iterator_train__shuffle=True,
        train_split=None,
    )
    model = DataDropoutClassifier(net, cv=int(cv), n_jobs=int(n_jobs), random_state=0)
    model.fit(samples["X"], samples["y"])
    epochs = sum(len(trained.history) for trained in model.round_one_estimators_)
    print(f"epochs_of_round_one={epochs}")
    for stage, seconds in model.timings_.items():
        print(f"{stage}={seconds:.2f}")


if __name__ == "__main__":
    main()
