"""Find the training samples that hurt a neural network, drop them, retrain."""

from sk_datadrop import datasets, metrics, nets
from sk_datadrop._curvature import GaussNewton, Hessian
from sk_datadrop._estimators import DataDropoutClassifier, DataDropoutRegressor
from sk_datadrop._solvers import Dense, Lanczos
from sk_datadrop._views import Views

__all__ = [
    "DataDropoutClassifier",
    "DataDropoutRegressor",
    "Dense",
    "GaussNewton",
    "Hessian",
    "Lanczos",
    "Views",
    "datasets",
    "metrics",
    "nets",
]
