"""The base of all estimators, transformers and samplers that keep some of the rows."""

import numpy as np
from sklearn.base import BaseEstimator, MetaEstimatorMixin
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping
from sklearn.utils.validation import check_is_fitted, validate_data
from skorch.dataset import Dataset as ArrayDataset

from sk_datadrop._rows import DatasetRows, as_rows, with_own_targets, with_targets
from sk_datadrop._validation import check_rows

# torch warns of arrays that are read-only, as those of a DataFrame or a memmap are.
_ROWS = {"dtype": np.float32, "allow_nd": True, "force_writeable": True}


class BaseRowSelection(MetaEstimatorMixin, BaseEstimator):
    """Has the parameters, routes metadata, checks X, and tells which rows were kept."""

    def __init__(
        self,
        estimator,
        *,
        drop_fraction="negative",
        cv=5,
        objective="bounded",
        views=None,
        engine=None,
        curvature=None,
        solver=None,
        autocast=None,
        memory=None,
        n_jobs=None,
        random_state=None,
        verbose=0,
    ):
        self.estimator = estimator
        self.drop_fraction = drop_fraction
        self.cv = cv
        self.objective = objective
        self.views = views
        self.engine = engine
        self.curvature = curvature
        self.solver = solver
        self.autocast = autocast
        self.memory = memory
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def get_metadata_routing(self):
        """Tell who takes which metadata in ``fit``.

        For scikit-learn, when metadata routing is enabled.

        Returns
        -------
        sklearn.utils.metadata_routing.MetadataRouter
            `X_val` and `y_val` for itself, ``fit`` of the net, ``split`` of `cv`.

        See Also
        --------
        sklearn.utils.metadata_routing.get_routing_for_object : Calls it.

        Examples
        --------
        >>> from skorch import NeuralNetRegressor
        >>> from torch.nn import Linear
        >>> from sk_datadrop import DataDropoutRegressor
        >>> model = DataDropoutRegressor(NeuralNetRegressor(Linear))
        >>> [name for name, _ in model.get_metadata_routing()]
        ['$self_request', 'estimator']
        """
        router = MetadataRouter(owner=self).add_self_request(self)
        router.add(estimator=self.estimator, method_mapping=self._routes_to("fit"))
        if hasattr(self.cv, "split"):
            router.add(splitter=self.cv, method_mapping=self._routes_to("split"))
        return router

    def _routes_to(self, callee: str) -> MethodMapping:
        return MethodMapping().add(caller="fit", callee=callee)

    def get_support(self, indices=False):
        """Tell which rows were kept.

        The name is that of scikit-learn's feature selectors; here it is about rows.

        Parameters
        ----------
        indices : bool, default=False
            Whether to return their positions instead of a mask.

        Returns
        -------
        ndarray of shape (n_samples,), dtype bool, or (n_kept,), dtype int
            In the order of the rows given to ``fit``.

        See Also
        --------
        fit : Decides it.

        Examples
        --------
        >>> import numpy as np, torch
        >>> from skorch import NeuralNetRegressor
        >>> from sk_datadrop import DataDropoutRegressor
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(60, 3))
        >>> y = X @ [1.0, 2.0, 3.0]
        >>> net = NeuralNetRegressor(
        ...     torch.nn.Linear, module__in_features=3, module__out_features=1,
        ...     lr=0.1, verbose=0,
        ... )
        >>> model = DataDropoutRegressor(net, drop_fraction=0.1, cv=2, random_state=0)
        >>> model.fit(X, y).get_support(indices=True).shape
        (54,)
        """
        check_is_fitted(self, "sample_mask_")
        return self.sample_indices_ if indices else self.sample_mask_

    def _as_rows(self, X, *, reset: bool):
        """Check X and return it as an array, or to be read row by row."""
        if (rows := self._unread(X)) is None:
            minimum = 2 if reset else 1
            return validate_data(
                self, X, reset=reset, ensure_min_samples=minimum, **_ROWS
            )
        check_rows(rows, self.engine, minimum=2 if reset else 1)
        return validate_data(self, rows, reset=reset, skip_check_array=True)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.non_deterministic = self.random_state is None
        return tags

    def _unread(self, X) -> DatasetRows | None:
        """Return rows to be read one by one; None where they are an array."""
        # Its own data set class makes of an array what it likes.
        if isinstance(X, np.memmap) and self.estimator.dataset is not ArrayDataset:
            return None
        return as_rows(X)

    def _with_own_targets(self, X, y) -> tuple:
        """Return X and y, those of the data set X if y is None."""
        rows = self._unread(X) if y is None else None
        return (X, y) if rows is None else with_own_targets(rows, None)

    def _check_X(self, X):
        X = self._as_rows(X, reset=False)
        # Predicting needs no targets: those of a data set, of any type, are not read.
        X = with_targets(X, np.zeros(len(X)))
        if X.shape[1:] != self.input_shape_:
            raise ValueError(
                f"X has rows of shape {X.shape[1:]}, but {type(self).__name__} was "
                f"fitted on rows of shape {self.input_shape_}."
            )
        return X
