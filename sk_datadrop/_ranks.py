"""One net trained by several processes at once, by accelerate.

Each process (rank) runs the same ``fit`` on its share of every batch. All of them score
all samples, with the same weights, and decide by what the first one found: rounding on
different hardware could otherwise make them train on different samples.
"""

from typing import Any, TypeVar

import numpy as np
import torch
from skorch.hf import AccelerateMixin
from torch import distributed

T = TypeVar("T")


def has_ranks(net: Any) -> bool:
    """Tell whether a net is trained by several processes at once."""
    return isinstance(net, AccelerateMixin) and net.accelerator.num_processes > 1


def from_first_process(value: T, net: Any) -> T:
    """Return the value of the first process."""
    if not has_ranks(net):
        return value
    box = [value]
    distributed.broadcast_object_list(box, src=0)
    return box[0]


def summed_over_processes(values: np.ndarray, net: Any) -> np.ndarray:
    """Return the sum over the processes."""
    if not has_ranks(net):
        return values
    total = torch.as_tensor(values, device=net.accelerator.device)
    distributed.all_reduce(total)
    return total.cpu().numpy()


def module_of(net: Any) -> torch.nn.Module:
    """Return the module of a net, without what spreads it over processes."""
    module: torch.nn.Module = net.module_
    if isinstance(net, AccelerateMixin):
        module = net.accelerator.unwrap_model(module, keep_fp32_wrapper=False)
    return module


def device_of(net: Any) -> Any:
    """Return the device of a net; None leaves tensors where they are."""
    is_placed = isinstance(net, AccelerateMixin) and net.device is None
    return net.accelerator.device if is_placed else net.device


def iterator_of_all(net: Any, dataset: Any) -> Any:
    """Return the batches of a data set for validation, all of them."""
    # AccelerateMixin would give the batches of this process only.
    owner: Any = (
        super(AccelerateMixin, net) if isinstance(net, AccelerateMixin) else net
    )
    return owner.get_iterator(dataset, training=False)
