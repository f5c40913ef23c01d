"""
Image pairs, some of them misaligned or swapped
===============================================

You have pairs of image files: an input, and the image that a net should make of it.
Some pairs are wrong. The two images are shifted against each other, or they show
different things. This page reads pairs of PNG files and finds the wrong pairs. It ends
with a table of their names as a CSV file, with pictures, and with a saved denoiser that
was trained without them.

The code runs as a script or in a notebook. It needs
``pip install "sk_datadrop[demo,save]"``.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image
from skimage import data
from sklearn.base import clone
from skorch import NeuralNetRegressor
from torch.utils.data import Dataset

from sk_datadrop import (
    DataDropoutRegressor,
    InfluenceDisplay,
    influence_report,
    load_model,
    save_model,
)
from sk_datadrop.metrics import peak_signal_noise_ratio
from sk_datadrop.nets import DnCNN

# %%
# Stand-in files; skip this with your own
# ---------------------------------------
# We cut 320 patches of 32 x 32 pixels from photographs of bricks, grass, gravel and
# coins. They are the targets, and the same patches with noise are the inputs. Then we
# shift 32 targets by a few pixels, and give 16 inputs the target of another one. The
# 100 pairs in ``test`` are right, and come from another part of the photographs.

SIZE = 32
temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)
rng = np.random.default_rng(0)
photographs = [data.brick(), data.grass(), data.gravel(), data.coins()]


def cut(n_patches, left, right):
    corners = rng.integers([0, left], [300 - SIZE, right - SIZE], (n_patches, 2))
    cuts = [np.s_[top : top + SIZE, start : start + SIZE] for top, start in corners]
    return np.array([p[where] for p in photographs for where in cuts])


def write_pairs(folder, targets, inputs_of):
    noisy = inputs_of + rng.normal(0, 20, inputs_of.shape)
    for name, images in (("input", noisy), ("target", targets)):
        (folder / name).mkdir(parents=True)
        for number, image in enumerate(images):
            pixels = image.clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:03d}.png")


clean = cut(80, 0, 256)
shifted, swapped = np.split(rng.permutation(len(clean))[:48], [32])
targets = clean.copy()
targets[shifted] = np.roll(clean[shifted], (4, 3), axis=(1, 2))
targets[swapped] = clean[np.roll(swapped, 1)]
write_pairs(folder / "train", targets, clean)
clean_test = cut(25, 256, 384)
write_pairs(folder / "test", clean_test, clean_test)

# %%
# Read the pairs
# --------------
# A torch ``Dataset`` returns an input and its target, both of shape (channels, height,
# width). If it has a list ``samples`` of files, the reports use their names.


def read(path):
    return torch.from_numpy(np.array(Image.open(path), dtype=np.float32)[None] / 255)


class Pairs(Dataset):
    def __init__(self, folder):
        self.samples = sorted(Path(folder, "input").glob("*.png"))

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, number):
        path = self.samples[number]
        return read(path), read(path.parents[1] / "target" / path.name)


train, test = Pairs(folder / "train"), Pairs(folder / "test")
print(f"{len(train)} pairs of images of shape {tuple(train[0][0].shape)}")

# %%
# Find the wrong pairs and train without them
# -------------------------------------------

net = NeuralNetRegressor(
    DnCNN,
    module__depth=4,
    module__width=16,
    optimizer=torch.optim.Adam,
    lr=0.003,
    max_epochs=15,
    batch_size=16,
    iterator_train__shuffle=True,
    train_split=None,
    verbose=0,
)
model = DataDropoutRegressor(net, random_state=0).fit(train)
print(model.summary_.replace("; ", "\n"))

# %%
# The table: which files
# ----------------------

report = influence_report(model, train)
report.index = [Path(file).name for file in report.index]
report = report.sort_values(["harm_probability", "influence"], ascending=[False, True])
suspects = report.loc[~report["kept"], ["harm_probability", "influence"]]
suspects.to_csv(folder / "wrong_pairs.csv", index_label="file")
suspects.head(8)

# %%
# How good is the list? That is known here because the errors were planted. A shift is
# hard to find in images that have smooth areas, where it changes little. These
# photographs have texture everywhere.

dropped = ~model.sample_mask_
print(f"{dropped.sum()} pairs were dropped")
print(
    f"{len(shifted)} pairs are shifted, {dropped[shifted].sum()} of them were dropped"
)
print(
    f"{len(swapped)} pairs are swapped, {dropped[swapped].sum()} of them were dropped"
)

# %%
# The pictures
# ------------
# Each column shows the input, the given target, and what the retrained net predicts.
# :func:`sk_datadrop.influence_html` writes a page for the browser with more of them.

InfluenceDisplay.from_estimator(model, train, kind="gallery", n_samples=4)
plt.show()

# %%
# Mend instead of dropping
# ------------------------
# An image has no label to relabel. Find the right file for a swapped pair, or align a
# shifted one. ``DataDropoutRegressor(net, on_harmful="mend")`` trains on targets that
# are moved toward the prediction of nets that did not see them; these targets are
# ``suggested_targets_``.

# %%
# How much it helps
# -----------------
# The peak signal-to-noise ratio on the 100 test pairs, higher being better. One net is
# trained on all pairs for comparison.

torch.manual_seed(0)
plain = clone(net).fit(train, None)
noisy, target = (np.array([pair[i].numpy() for pair in test]) for i in (0, 1))
for name, images in (
    ("noisy input", noisy),
    ("denoised, all pairs as given", plain.predict(test)),
    ("denoised, without those dropped", model.predict(test)),
):
    print(f"{name:32}{peak_signal_noise_ratio(target, images):6.2f} dB")

# %%
# The saved model
# ---------------
# The file has the weights and the findings, but no code: loading takes the same net.

save_model(model, folder / "denoiser.skops")
again = load_model(folder / "denoiser.skops", net)
print(f"loaded: {peak_signal_noise_ratio(target, again.predict(test)):.2f} dB")
temporary.cleanup()
