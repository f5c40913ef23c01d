"""How far a fit has come: seconds per stage, and the bar that shows them."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from tqdm.auto import tqdm


class Progress:
    """Progress bar over the trainings and scorings of a fit.

    Parameters
    ----------
    n_rounds : int
        Number of rounds; each is trained and scored, then one net is retrained.
    verbose : int
        0 shows nothing.

    Attributes
    ----------
    seconds : dict of str to float
        Time spent so far in each kind of stage.
    """

    def __init__(self, n_rounds: int, verbose: int) -> None:
        self.n_rounds = n_rounds
        self.seconds = {"round_one": 0.0, "scoring": 0.0, "round_two": 0.0}
        self._n_products = 0
        self._bar = tqdm(
            total=2 * n_rounds + 1, disable=not verbose, unit="stage", leave=False
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception) -> None:
        self._bar.close()

    @contextmanager
    def stage(self, kind: str, description: str) -> Iterator[None]:
        """Time the block as a stage of that kind."""
        self._bar.set_description(description)
        start = perf_counter()
        yield
        self.seconds[kind] += perf_counter() - start
        self._bar.update()

    def count_product(self) -> None:
        """Count one curvature product."""
        self._n_products += 1
        self._bar.set_postfix(curvature_products=self._n_products)
