"""
A CSV file with wrong labels (pandas)
=====================================

You have a table as a CSV file, with columns of numbers and of text, and some entries of
the label column are wrong. This page reads it with pandas, encodes and scales it in a
scikit-learn pipeline, and finds the label errors. It ends with a DataFrame of the rows
that are probably mislabelled, with a picture, with a relabelled CSV file, and with a
saved pipeline. The last section logs a fit with MLflow.

The code runs as a script or in a notebook. It needs
``pip install "sk_datadrop[demo,save]"``.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_breast_cancer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from skorch import NeuralNetClassifier

from sk_datadrop import (
    DataDropoutClassifier,
    influence_report,
    load_model,
    save_model,
)
from sk_datadrop.datasets import flip_labels

# %%
# Stand-in files; skip this with your own
# ---------------------------------------
# The table has 569 tumours and their diagnosis. We write one of its columns as text,
# since real tables have such columns. In ``tumours.csv`` 15 % of the 400 diagnoses are
# wrong. The other 169 tumours, in ``checked.csv``, keep the right one.

temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)
source = load_breast_cancer(as_frame=True)
frame = source.data.sample(frac=1, random_state=0)
radius = frame.pop("mean radius")
frame.insert(
    0, "size", np.select([radius < 12, radius < 15], ["small", "medium"], "large")
)
frame.index = [f"T{number:03d}" for number in range(len(frame))]
frame.index.name = "tumour"
frame["diagnosis"] = source.target_names[source.target[radius.index]]
truth = frame["diagnosis"].iloc[:400]
frame.iloc[400:].to_csv(folder / "checked.csv")
given, _ = flip_labels(truth, 0.15, random_state=0)
frame.iloc[:400].assign(diagnosis=given).to_csv(folder / "tumours.csv")

# %%
# Read the CSV file
# -----------------

table = pd.read_csv(folder / "tumours.csv", index_col="tumour")
checked = pd.read_csv(folder / "checked.csv", index_col="tumour")
X, y = table.drop(columns="diagnosis"), table["diagnosis"]
X_test, y_test = checked.drop(columns="diagnosis"), checked["diagnosis"]
table[["size", "mean texture", "diagnosis"]].head(4)

# %%
# Find the label errors and train without them
# --------------------------------------------
# A net needs numbers, all of about the same size. Columns of text become one column per
# category, the others are scaled. With ``set_output`` the row names of the CSV file
# stay with the samples. Labels may be text.


class Net(torch.nn.Sequential):
    def __init__(self, n_outputs=2):
        super().__init__(
            torch.nn.LazyLinear(32),
            torch.nn.ReLU(),
            torch.nn.Linear(32, 32),
            torch.nn.ReLU(),
            torch.nn.Linear(32, n_outputs),
        )


net = NeuralNetClassifier(
    Net,
    criterion=torch.nn.CrossEntropyLoss,
    optimizer=torch.optim.Adam,
    lr=0.005,
    max_epochs=30,
    batch_size=32,
    iterator_train__shuffle=True,
    train_split=None,
    verbose=0,
)
encode = make_column_transformer(
    (OneHotEncoder(sparse_output=False), ["size"]),
    remainder=StandardScaler(),
).set_output(transform="pandas")
pipe = make_pipeline(encode, DataDropoutClassifier(net, random_state=0)).fit(X, y)
model = pipe[-1]
print(model.summary_.replace("; ", "\n"))

# %%
# The table: which rows, and which label they should have
# -------------------------------------------------------
# The report takes the last step of the pipeline and what that step was given.

report = influence_report(model, pipe[:-1].transform(X), y)
report = report.sort_values("harm_probability", ascending=False)
columns = ["target", "suggested", "harm_probability"]
suspects = report.loc[~report["kept"], columns].round(3)
suspects.to_csv(folder / "label_errors.csv")
suspects.head(8)

# %%
# How good is the list? That is known here because the errors were planted.

wrong = y != truth
dropped = pd.Series(~model.sample_mask_, y.index)
hits = np.sum(dropped & wrong)
print(f"{dropped.sum()} rows were dropped, {hits} of them are mislabelled")
print(f"{wrong.sum()} rows are mislabelled, {hits} of them were dropped")

# %%
# The picture
# -----------
# Most of the labels that were dropped lie among labels of the other kind.
# :func:`sk_datadrop.influence_html` writes a page for the browser with all rows, to
# sort and to filter.

_, ax = plt.subplots(figsize=(5, 4), layout="constrained")
for name, color in (("benign", "tab:blue"), ("malignant", "tab:orange")):
    of_class = X[y == name]
    ax.scatter(
        of_class["worst radius"], of_class["worst texture"], 14, color, label=name
    )
ax.scatter(
    *X.loc[dropped, ["worst radius", "worst texture"]].to_numpy().T,
    s=70,
    facecolors="none",
    edgecolors="tab:red",
    label="dropped",
)
ax.set(xlabel="worst radius", ylabel="worst texture")
ax.legend(title="diagnosis as given")
plt.show()

# %%
# Relabel instead of dropping
# ---------------------------
# ``suggested_targets_`` has the given label, or another one where the given is more
# likely wrong than right. Write it into the table after a look at it. With
# ``on_harmful="mend"`` the fit itself uses such labels instead of dropping samples.

table.assign(diagnosis=model.suggested_targets_).to_csv(folder / "relabelled.csv")
mend = clone(pipe).set_params(datadropoutclassifier__on_harmful="mend").fit(X, y)

# %%
# How much it helps
# -----------------
# The 169 tumours of ``checked.csv`` have right labels, and no net has seen them. One
# net is trained without data dropout for comparison. This is one run, so a difference
# of a percent means nothing.

plain = clone(pipe).set_params(datadropoutclassifier__drop_fraction=0).fit(X, y)
print(f"accuracy, all rows as given      {plain.score(X_test, y_test):.3f}")
print(f"accuracy, without those dropped  {pipe.score(X_test, y_test):.3f}")
print(f"accuracy, mended labels          {mend.score(X_test, y_test):.3f}")

# %%
# The saved model
# ---------------
# The file has the whole pipeline, but not the code of the net: loading takes the net.
# See :doc:`/persistence`.

save_model(pipe, folder / "tumours.skops")
again = load_model(folder / "tumours.skops", net)
print(f"loaded: accuracy {again.score(X_test, y_test):.3f}")
temporary.cleanup()

# %%
# Log with MLflow, TensorBoard or Weights & Biases
# ------------------------------------------------
# skorch's callback for MLflow goes into the net. All trainings then log into one run,
# those of round 1 first, so it must not end after the first of them:
#
# .. code-block:: python
#
#     import mlflow
#     from skorch.callbacks import MlflowLogger
#
#     net.set_params(callbacks=[MlflowLogger(terminate_after_train=False)])
#     with mlflow.start_run():
#         model = DataDropoutClassifier(net, random_state=0).fit(X, y)
#         mlflow.log_metric("dropped", model.n_dropped_)
#         mlflow.log_artifact("label_errors.csv")
#
# Every training has a copy of the net and of its callbacks, but the writer of
# TensorBoard cannot be copied. Log the history of round 2 after the fit instead:
#
# .. code-block:: python
#
#     from torch.utils.tensorboard import SummaryWriter
#
#     with SummaryWriter() as writer:
#         writer.add_text("data dropout", model.summary_)
#         for epoch in model.estimator_.history:
#             writer.add_scalar("train_loss", epoch["train_loss"], epoch["epoch"])
#
# For Weights & Biases the loop calls ``run.log({"train_loss": epoch["train_loss"]})``.
# The :doc:`/user_guide` has more on callbacks.
