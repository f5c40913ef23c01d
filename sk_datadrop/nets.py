"""Convolutional nets, ready for skorch.

`SmallCNN` returns logits for :class:`torch.nn.CrossEntropyLoss` (or values for
:class:`torch.nn.MSELoss`), `DnCNN` an image of the shape of its input.
"""

import torch
from torch import nn

__all__ = ["DnCNN", "SmallCNN"]

_LAYERS: dict[int, tuple[type[nn.Module], ...]] = {
    1: (nn.LazyConv1d, nn.LazyBatchNorm1d, nn.MaxPool1d),
    2: (nn.LazyConv2d, nn.LazyBatchNorm2d, nn.MaxPool2d),
    3: (nn.LazyConv3d, nn.LazyBatchNorm3d, nn.MaxPool3d),
}
"""Convolution, batch normalisation and pooling, by number of dimensions."""


class _ChannelsLast(nn.Module):
    """Lay images out channels last: on a CPU max-pooling is then five times faster.

    The copy is explicit: with one channel torch thinks that both layouts are the same.
    """

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        if X.ndim != 4:
            return X
        X = X.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format)
        return X.permute(0, 3, 1, 2)


class SmallCNN(nn.Sequential):
    """Convolutions with pooling, one hidden layer, one output layer.

    It infers the numbers of input channels and features from the first batch, so the
    same class works for images of any size and, with ``n_dims=1``, for signals.

    Parameters
    ----------
    n_outputs : int, default=10
        Width of the output layer: the number of classes, or of targets.
    channels : tuple of int, default=(16, 32)
        Output channels of the convolutions (kernel 3, max-pooling over 2, ReLU).
    n_hidden : int, default=64
        Width of the hidden linear layer.
    batch_norm : bool, default=False
        Whether a batch normalisation follows each convolution.
    n_dims : {1, 2, 3}, default=2
        Signals (N, C, L), images (N, C, H, W) or volumes (N, C, D, H, W).

    See Also
    --------
    DnCNN : Returns images.

    Examples
    --------
    >>> import torch
    >>> from sk_datadrop.nets import SmallCNN
    >>> SmallCNN(n_outputs=3, n_dims=1)(torch.zeros(5, 2, 40)).shape
    torch.Size([5, 3])
    """

    def __init__(
        self,
        n_outputs: int = 10,
        channels: tuple[int, ...] = (16, 32),
        n_hidden: int = 64,
        batch_norm: bool = False,
        n_dims: int = 2,
    ) -> None:
        super().__init__()
        if n_dims not in _LAYERS:
            raise ValueError(f"n_dims must be 1, 2 or 3; got {n_dims!r}.")
        convolution, normalisation, pooling = _LAYERS[n_dims]
        layers: list[nn.Module] = []
        for width in channels:
            layers.append(convolution(width, kernel_size=3, padding=1))
            if batch_norm:
                layers.append(normalisation())
            # Pooling first leaves the ReLU less to do, and commutes with it.
            layers += [pooling(2), nn.ReLU()]
        self.layout = _ChannelsLast()
        self.features = nn.Sequential(*layers)
        hidden, output = nn.LazyLinear(n_hidden), nn.Linear(n_hidden, n_outputs)
        self.classifier = nn.Sequential(nn.Flatten(), hidden, nn.ReLU(), output)


class DnCNN(nn.Module):
    """Residual denoiser: the input minus a learned estimate of its noise.

    A small version of the net of Zhang, Zuo, Chen, Meng, Zhang (2017, Beyond a Gaussian
    denoiser, doi:10.1109/TIP.2017.2662206), for images of any size.

    Parameters
    ----------
    depth : int, default=5
        Number of convolutions, at least 2. The paper uses 17.
    width : int, default=32
        Channels of the inner convolutions. The paper uses 64.
    n_channels : int, default=1
        Channels of the images.
    batch_norm : bool, default=False
        Whether the inner convolutions are followed by batch normalisation, as in the
        paper; without it small nets train faster and need no statistics.

    See Also
    --------
    SmallCNN : Returns logits or a few values.

    Examples
    --------
    >>> import torch
    >>> from sk_datadrop.nets import DnCNN
    >>> DnCNN(depth=3, width=8)(torch.zeros(2, 1, 24, 24)).shape
    torch.Size([2, 1, 24, 24])
    """

    def __init__(
        self,
        depth: int = 5,
        width: int = 32,
        n_channels: int = 1,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        if depth < 2:
            raise ValueError(f"depth must be at least 2; got {depth!r}.")
        layers: list[nn.Module] = [nn.Conv2d(n_channels, width, 3, padding=1)]
        for _ in range(depth - 2):
            inner = nn.Conv2d(width, width, 3, padding=1, bias=not batch_norm)
            layers += [nn.ReLU(), inner]
            if batch_norm:
                layers.append(nn.BatchNorm2d(width))
        layers += [nn.ReLU(), nn.Conv2d(width, n_channels, 3, padding=1)]
        self.noise = nn.Sequential(*layers)

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        """Return the denoised images.

        The convolutions estimate the noise, which is subtracted from the input.

        Parameters
        ----------
        X : torch.Tensor of shape (n_samples, n_channels, height, width), dtype float
            Noisy images.

        Returns
        -------
        torch.Tensor of the shape of X
            Denoised images, in the units of X.

        See Also
        --------
        sk_datadrop.nets.SmallCNN : Returns logits or values.

        Examples
        --------
        >>> import torch
        >>> from sk_datadrop.nets import DnCNN
        >>> X = torch.rand(2, 1, 8, 8)
        >>> DnCNN(depth=2, width=4).forward(X).shape == X.shape
        True
        """
        noise: torch.Tensor = self.noise(X)
        return X - noise
