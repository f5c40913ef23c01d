"""One progress bar over all trainings of a fit."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

from skorch import NeuralNet
from skorch.callbacks import Callback, PrintLog

FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"


class Progress:
    """A bar that moves by the epoch, over pieces of work that were planned before.

    It counts parts, such as the runs of a drop curve, and each part has pieces, such as
    trainings. What a piece does not need, because it ends early or comes from the
    cache, is jumped over, and does not count in the speed: the bar never goes back,
    and the time left follows from the work that was done.
    """

    def __init__(self, verbose: int, n_parts: int = 1, name: str = "") -> None:
        self._bar: Any = None
        self._name, self._part = name, 0
        self._text, self._n_epochs, self._epoch = "", 0, 0
        self._per_work, self._step, self._end = 0.0, 0.0, 0.0
        if verbose:
            # It warns of missing widgets in notebooks, and starts a thread.
            from tqdm.auto import tqdm

            self._bar = tqdm(
                total=n_parts, bar_format=FORMAT, smoothing=0, miniters=0, leave=False
            )

    def __bool__(self) -> bool:
        return self._bar is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self:
            self._bar.close()

    @contextmanager
    def part(self, work: float) -> Iterator[None]:
        """Begin the next part, whose pieces are so much work in all, and end it."""
        self._part += 1
        self._per_work = 1 / work
        if self:
            self._end = self._bar.n
        yield
        if self:
            self._jump(self._part)
            self._bar.refresh()

    def count_part(self) -> None:
        """Count a part that was done elsewhere."""
        if self:
            self._part += 1
            self._bar.update()
            self.show_parts()

    def show_parts(self) -> None:
        """Show how many parts are done, where others do them."""
        if self:
            text = f"{self._part} of {self._bar.total} {self._name}s done"
            self._bar.set_description_str(text)

    def begin(self, text: str, work: float = 0.0, n_epochs: int = 0) -> None:
        """Begin the next piece, of so many epochs; the last one is over."""
        if self:
            self._plan(text, work, n_epochs)
            self._bar.refresh()

    def count(self, text: str, work: float) -> None:
        """Count a piece that was done elsewhere."""
        if self:
            self._plan(text, work)
            self._bar.update(self._step)
            self._bar.refresh()

    def step(self) -> None:
        """Count an epoch, or a piece that has none."""
        if self:
            self._epoch += 1
            self._describe()
            self._bar.update(min(self._step, self._end - self._bar.n))

    def tick(self) -> None:
        """Show that time goes by."""
        if self:
            self._bar.update(0)

    def hide(self) -> None:
        """Take the bar away until it moves on, for others to write."""
        if self:
            self._bar.clear()

    def write(self, text: str) -> None:
        """Print a line above the bar."""
        self._bar.write(text)

    def _plan(self, text: str, work: float, n_epochs: int = 0) -> None:
        self._jump(self._end)
        self._end = min(self._bar.n + work * self._per_work, self._part)
        self._step = (self._end - self._bar.n) / max(n_epochs, 1)
        self._text, self._n_epochs, self._epoch = text, n_epochs, 0
        self._describe()

    def _describe(self) -> None:
        text = f"{self._where()}, {self._text}" if self._name else self._text
        if self._n_epochs:
            current = min(self._epoch + 1, self._n_epochs)
            text += f", epoch {current} of {self._n_epochs}"
        self._bar.set_description_str(text, refresh=False)

    def _where(self) -> str:
        return f"{self._name} {self._part} of {self._bar.total}"

    def _jump(self, position: float) -> None:
        """Go forward without counting it in the speed."""
        skipped = max(position - self._bar.n, 0.0)
        self._bar.n += skipped
        self._bar.initial += skipped


SILENT = Progress(verbose=0)
"""For work that nobody watches."""


class EpochSteps(Callback):
    """Moves the bar after every epoch of a training.

    Within the block skorch's table is printed above the bar, instead of into it.
    """

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.logs_: list[PrintLog] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for log in self.logs_:
            log.sink = print

    def on_train_begin(self, net: NeuralNet, **kwargs: Any) -> None:
        """Have the table printed above the bar."""
        if self.progress and net.verbose:
            logs = [cb for _, cb in net.callbacks_ if isinstance(cb, PrintLog)]
            self.logs_ = [log for log in logs if log.sink is print]
            for log in self.logs_:
                log.sink = self.progress.write

    def on_epoch_end(self, net: NeuralNet, **kwargs: Any) -> None:
        """Count the epoch."""
        self.progress.step()
