"""Warnings of work that is done elsewhere: heard there, and issued by the caller."""

import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

_HERE = str(Path(__file__).parent)


class Heard(NamedTuple):
    """The message of a warning, and the place in a file that it is about."""

    message: str
    category: type[Warning]
    filename: str
    lineno: int

    @property
    def is_ours(self) -> bool:
        """Tell whether it is from this package, and not from the core of torch."""
        return self.filename.startswith(_HERE) and "Triggered int" not in self.message


def heard(warning: warnings.WarningMessage) -> Heard:
    """Return a warning that was recorded as what can be sent and stored."""
    message, category = str(warning.message), warning.category
    return Heard(message, category, warning.filename, warning.lineno)


def issue(given: Iterable[Heard], *, stacklevel: int) -> None:
    """Issue warnings: ours as if of the caller, all others where they came from.

    What torch and skorch warn of, or a module of the user, so meets the filters that it
    would meet in a training without us.
    """
    registry: dict[Any, int] = {}
    for warning in given:
        message, category, filename, lineno = warning
        if warning.is_ours:
            warnings.warn(message, category, stacklevel=stacklevel + 1)
        else:
            module = _module_of(filename)
            warnings.warn_explicit(
                message, category, filename, lineno, module, registry
            )


def _module_of(filename: str) -> str:
    """Return the name of a module by its file, which filters may ask for."""
    named = list(sys.modules.items())
    found = (n for n, m in named if getattr(m, "__file__", None) == filename)
    return next(found, filename.removesuffix(".py") or "<unknown>")
