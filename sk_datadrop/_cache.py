"""The cache of splits: what tells one result from another, and where it is kept.

A stored result may be given back only if computing it again would lead to the same
numbers. The key is a small dict of hashes, which joblib writes beside each entry
(``metadata.json``).
"""

import sys
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any
from uuid import uuid4

import joblib
import torch
from sklearn.base import clone
from sklearn.utils.validation import check_memory
from skorch import NeuralNet

from sk_datadrop._fingerprint import (
    digest,
    hash_of,
    is_of_main,
    plain_values,
    reached,
    versions,
)
from sk_datadrop._lazy import identity
from sk_datadrop._samples import Samples

Key = dict[str, str]


class Cache:
    """Results on disk, by key.

    Raises a ValueError if the folder cannot be made or read.
    """

    def __init__(self, memory: Any) -> None:
        self._where = str(getattr(memory, "location", memory))
        self._is_checked = False
        try:
            self._recall = check_memory(memory).cache(_computed, ignore=["compute"])
            self._recall.check_call_in_cache({}, None)
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(self._refusal(error)) from error

    def find(self, key: Key) -> list[Any]:
        """Return a list of the stored result, empty if none can be read."""
        with suppress(OSError, _Unreadable):
            if self._recall.check_call_in_cache(key, None):
                found = [self._recall(key, _not_read)]
                # A folder that has results is of use, even if none can be added.
                self._is_checked = True
                return found
        return []

    def check_writable(self) -> None:
        """Raise a ValueError if the first result to come could not be kept."""
        if not self._is_checked:
            trial = {"trial": uuid4().hex}
            if reason := self._reason_not_kept(trial, None):
                raise ValueError(self._refusal(reason))
            self._remove(trial)
            self._is_checked = True

    def keep(self, key: Key, result: Any, name: str) -> None:
        """Store a result of a stage, or warn that it was not possible."""
        if reason := self._reason_not_kept(key, result):
            warnings.warn(
                f"memory={self._where!r}: a result of {name} was not kept ({reason}). "
                "The fit goes on with it; only a fit that is started again repeats "
                "this work. Make room there for the results to come.",
                UserWarning,
                stacklevel=5,
            )

    def _reason_not_kept(self, key: Key, result: Any) -> str:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                # What is there could not be read.
                self._remove(key)
                entry = self._recall.call_and_shelve(key, lambda: result)
            except OSError as error:
                return str(error) or type(error).__name__
        # joblib warns of what it could not write, and leaves a part of it.
        texts = [str(w.message) for w in caught]
        failed = [text for text in texts if text.startswith("Unable to cache to disk")]
        if not failed:
            return ""
        entry.clear()
        return failed[0].partition("xception: ")[2].rstrip(".") or failed[0]

    def _remove(self, key: Key) -> None:
        if self._recall.check_call_in_cache(key, None):
            self._recall.call_and_shelve(key, _not_read).clear()

    def _refusal(self, reason: object) -> str:
        return (
            f"memory={self._where!r}: results cannot be kept there ({reason}). Pass a "
            "folder that you may write to and that has room, or leave memory out."
        )


class _Unreadable(Exception):
    """An entry is damaged; joblib has logged how."""


def _computed(key: Key, compute: Callable[[], Any]) -> Any:
    return compute()


def _not_read() -> Any:
    raise _Unreadable


def cache_key(
    net: NeuralNet,
    probe: NeuralNet,
    settings: dict[str, Any],
    samples: Iterable[Samples],
) -> Key:
    """Return everything a result depends on, besides its split and its seed.

    The probe is a clone of the net, initialized and not trained. Of the files that a
    data set reads, only what it holds of them counts, such as their names. Raises a
    ValueError if a parameter cannot be told from another one of its kind.
    """
    if isinstance(net.module, torch.nn.Module):
        raise ValueError(
            "memory= needs a module class, and the net holds an instance of "
            f"{type(net.module).__name__}, whose weights change with every "
            "training. Pass the class, and its arguments as module__name=value, or "
            "leave memory out."
        )
    modules = list(probe.module_.modules())
    definitions = [type(net), *map(type, modules)]
    parts = [p for given in samples for v in vars(given).values() for p in identity(v)]
    digests = {
        "net": _digests(clone(net).get_params(deep=False), definitions),
        "settings": _digests(settings, definitions),
        "samples": [digest("X", part, definitions, copies=1) for part in parts],
        "untrained": [plain_values(vars(module)) for module in modules],
    }
    code = reached(definitions)
    digests["code"] = sorted(map(repr, code.values()))
    key = {name: joblib.hash(value) for name, value in digests.items()}
    return key | {"versions": ", ".join(map(" ".join, versions(code)))}


def register_in_main(net: NeuralNet) -> None:
    """Put what a script or notebook defines for a net where pickle looks for it.

    Workers get it by value, but torch and joblib write and read it by name.
    """
    main = sys.modules["__main__"]
    definitions: list[Any] = [type(net)]
    for value in clone(net).get_params(deep=False).values():
        # What pickle cannot write need not be found by it.
        with suppress(Exception):
            hash_of(value, definitions)
    for definition in filter(is_of_main, reached(definitions)):
        name = definition.__qualname__
        if name in _REGISTERED or not hasattr(main, name):
            _REGISTERED.add(name)
            setattr(main, name, definition)


_REGISTERED: set[str] = set()
"""Names that were put there, and may be replaced by those of another net."""


def _digests(values: dict[str, Any], definitions: list[Any]) -> dict[str, str]:
    return {name: digest(name, value, definitions) for name, value in values.items()}
