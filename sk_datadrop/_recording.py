"""Record a training, so that it can be replayed: its steps, and states between them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from skorch import NeuralNet
from skorch.callbacks import Callback
from skorch.utils import to_tensor
from torch import Tensor
from torch.utils.data import Dataset

from sk_datadrop._optimizers import OPTIMIZERS, OptimizerState, read_options


@dataclass(frozen=True)
class Step:
    """Everything a step of the training depended on, besides the state.

    `options` are those of the optimiser; `rng_states` are those of torch's generators
    (the CPU's, then that of the net's GPU if any), which dropout draws from.
    """

    samples: list[int]
    options: dict[str, Any]
    rng_states: list[Tensor]


class TrajectoryRecorder(Callback):
    """Record the steps of a training and the states between them.

    `steps_` lists the steps, and `states_` has the states by the number of steps taken:
    the first, and others as far as `max_memory` bytes allow. `epoch_ends_` lists the
    number of steps taken by the end of each epoch, `sizes_` the number of elements of
    each trainable parameter; `collate_` makes a batch of samples.
    """

    def __init__(self, max_memory: float) -> None:
        self.max_memory = max_memory

    def on_train_begin(self, net: NeuralNet, **kwargs: Any) -> None:
        self.steps_: list[Step] = []
        self.states_: dict[int, OptimizerState] = {}
        self.epoch_ends_: list[int] = []
        self.optimizer_ = OPTIMIZERS[type(net.optimizer_)]
        self.every_ = 1
        self.seen_: list[int] = []
        self.iterator_ = net.iterator_train
        vars(net)["iterator_train"] = partial(self._iterator, net.iterator_train)

    def on_train_end(self, net: NeuralNet, **kwargs: Any) -> None:
        vars(net)["iterator_train"] = self.iterator_
        self._remember(net)

    def on_batch_begin(
        self, net: NeuralNet, batch: Any = None, training: Any = None, **kwargs: Any
    ) -> None:
        if not training:
            return
        if not self.steps_:
            _materialise(net, batch)
        if len(self.steps_) % self.every_ == 0:
            self._remember(net)
        parameters = list(_trainable(net).values())
        self.sizes_ = [p.numel() for p in parameters]
        samples, self.seen_[:] = list(self.seen_), []
        options = read_options(net.optimizer_, parameters)
        self.steps_.append(Step(samples, options, _rng_states(net.device)))

    def on_epoch_end(self, net: NeuralNet, **kwargs: Any) -> None:
        self.epoch_ends_.append(len(self.steps_))

    def _iterator(self, original: Any, dataset: Any, **kwargs: Any) -> Any:
        loader = original(_Watched(dataset, self.seen_), **kwargs)
        self.collate_ = loader.collate_fn
        return loader

    def _remember(self, net: NeuralNet) -> None:
        state = _read_state(net, self.optimizer_.slot_names, len(self.steps_))
        self.states_[state.n_steps] = state
        size = (1 + len(state.slots)) * state.theta.nbytes
        if len(self.states_) * size > self.max_memory:
            self.every_ *= 2
            self.states_ = {
                n: s for n, s in self.states_.items() if n % self.every_ == 0
            }


class _Watched(Dataset[Any]):
    """A data set that notes which samples are asked for."""

    def __init__(self, dataset: Any, seen: list[int]) -> None:
        self.dataset = dataset
        self.seen = seen

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, number: int) -> Any:
        self.seen.append(int(number))
        return self.dataset[number]


def _materialise(net: NeuralNet, batch: Any) -> None:
    """Let lazy modules make their parameters, which the first step starts from."""
    training = net.module_.training
    net.module_.eval()
    with torch.no_grad():
        net.infer(to_tensor(batch[0], device=net.device))
    net.module_.train(training)


def _trainable(net: NeuralNet) -> dict[str, Tensor]:
    return {k: p for k, p in net.module_.named_parameters() if p.requires_grad}


def _read_state(
    net: NeuralNet, slot_names: tuple[str, ...], n_steps: int
) -> OptimizerState:
    parameters = list(_trainable(net).values())

    def slot(name: str) -> Tensor:
        values = [net.optimizer_.state.get(p, {}).get(name) for p in parameters]
        return torch.cat(
            [
                (torch.zeros_like(p) if v is None else v).detach().reshape(-1)
                for p, v in zip(parameters, values, strict=True)
            ]
        )

    theta = torch.cat([p.detach().reshape(-1) for p in parameters])
    return OptimizerState(theta, tuple(map(slot, slot_names)), n_steps)


def _rng_states(device: Any) -> list[Tensor]:
    states = [torch.get_rng_state()]
    if device is not None and torch.device(device).type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return states


@contextmanager
def generators_at(states: list[Tensor], device: Any) -> Iterator[None]:
    """Put torch's generators into a recorded state for the time of the block."""
    devices = [torch.device(device)] if len(states) > 1 else []
    with torch.random.fork_rng(devices=devices):
        torch.set_rng_state(states[0])
        if devices:
            torch.cuda.set_rng_state(states[1], devices[0])
        yield
