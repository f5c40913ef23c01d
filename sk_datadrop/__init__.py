"""Find the training samples that hurt a neural network, drop them, retrain."""

from sk_datadrop import datasets, metrics, nets
from sk_datadrop._cost import Cost, estimate_cost
from sk_datadrop._curvature import GaussNewton, Hessian
from sk_datadrop._curves import DropCurve, drop_curve
from sk_datadrop._displays import DropCurveDisplay, InfluenceDisplay
from sk_datadrop._estimators import DataDropoutClassifier, DataDropoutRegressor
from sk_datadrop._report import influence_report
from sk_datadrop._rows import DatasetRows
from sk_datadrop._scores import InfluenceResult, influence_scores
from sk_datadrop._selectors import DataDropoutSampler, DataDropoutTransformer
from sk_datadrop._solvers import CG, Arnoldi, Dense, Lanczos, LiSSA
from sk_datadrop._trajectory import Trajectory
from sk_datadrop._views import Views

__all__ = [
    "CG",
    "Arnoldi",
    "Cost",
    "DataDropoutClassifier",
    "DataDropoutRegressor",
    "DataDropoutSampler",
    "DataDropoutTransformer",
    "DatasetRows",
    "Dense",
    "DropCurve",
    "DropCurveDisplay",
    "GaussNewton",
    "Hessian",
    "InfluenceDisplay",
    "InfluenceResult",
    "Lanczos",
    "LiSSA",
    "Trajectory",
    "Views",
    "datasets",
    "drop_curve",
    "estimate_cost",
    "influence_report",
    "influence_scores",
    "metrics",
    "nets",
]
