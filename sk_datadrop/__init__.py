"""Find the training samples that hurt a neural network, drop them, retrain."""

from sk_datadrop import datasets, metrics, nets
from sk_datadrop._curvature import GaussNewton, Hessian
from sk_datadrop._curve_display import DropCurveDisplay
from sk_datadrop._curves import drop_curve
from sk_datadrop._displays import InfluenceDisplay
from sk_datadrop._engine import View
from sk_datadrop._estimators import DataDropoutClassifier, DataDropoutRegressor
from sk_datadrop._gains import DropCurve
from sk_datadrop._html import influence_html
from sk_datadrop._influence import InfluenceFunctions
from sk_datadrop._lazy import DatasetRows
from sk_datadrop._report import audit, influence_report
from sk_datadrop._safeguards import DataDropoutWarning
from sk_datadrop._saving import load_model, save_model
from sk_datadrop._scores import InfluenceResult, influence_scores
from sk_datadrop._selectors import DataDropoutSampler, DataDropoutTransformer
from sk_datadrop._solvers import CG, Arnoldi, Dense, Lanczos, LiSSA, SolverResult
from sk_datadrop._version import __version__ as __version__

__all__ = [
    "CG",
    "Arnoldi",
    "DataDropoutClassifier",
    "DataDropoutRegressor",
    "DataDropoutSampler",
    "DataDropoutTransformer",
    "DataDropoutWarning",
    "DatasetRows",
    "Dense",
    "DropCurve",
    "DropCurveDisplay",
    "GaussNewton",
    "Hessian",
    "InfluenceDisplay",
    "InfluenceFunctions",
    "InfluenceResult",
    "Lanczos",
    "LiSSA",
    "SolverResult",
    "View",
    "audit",
    "datasets",
    "drop_curve",
    "influence_html",
    "influence_report",
    "influence_scores",
    "load_model",
    "metrics",
    "nets",
    "save_model",
]
