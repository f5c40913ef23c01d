"""The residual net for CIFAR-10 that `cifar10_resnet.py` trains.

It is in a module of its own, so that processes of joblib can import it and a cache of
splits (``memory=``) can tell one version of its code from another.
"""

import torch
from torch import nn


class CifarResNet(nn.Module):
    """Residual net for images of about 32 x 32 pixels.

    One convolution, three stages of residual blocks, the mean over the image, one
    linear layer. The second and the third stage halve the image and double the
    channels. Where they begin, the shortcut skips every other pixel and adds channels
    of zeros (option A of the paper), so that it has no parameters.

    Parameters
    ----------
    depth : int, default=110
        Number of layers with weights, 6 n + 2 with n >= 1: n blocks of two
        convolutions in each stage. The paper has 20, 32, 44, 56 and 110.
    n_outputs : int, default=10
        Width of the output layer: the number of classes, or of targets.
    width : int, default=16
        Channels of the first stage.
    n_channels : int, default=3
        Channels of the images.

    Raises
    ------
    ValueError
        If `depth` is not 6 n + 2.

    References
    ----------
    He, Zhang, Ren, Sun (2016). Deep residual learning for image recognition, section
    4.2. arXiv:1512.03385
    """

    def __init__(
        self,
        depth: int = 110,
        n_outputs: int = 10,
        width: int = 16,
        n_channels: int = 3,
    ) -> None:
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise ValueError(
                f"depth must be 6 n + 2, such as 8, 20 or 110; got {depth!r}."
            )
        layers: list[nn.Module] = [*convolution(n_channels, width), nn.ReLU()]
        n_in = width
        for n_out in (width, 2 * width, 4 * width):
            for _ in range((depth - 2) // 6):
                layers.append(ResidualBlock(n_in, n_out))
                n_in = n_out
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(n_in, n_outputs)

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        """Return the logits of images of any size."""
        return self.classifier(self.features(X).mean(dim=(2, 3)))


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut; halves the image if it adds channels."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.stride = 1 if n_in == n_out else 2
        self.n_added = n_out - n_in
        self.residual = nn.Sequential(
            *convolution(n_in, n_out, self.stride),
            nn.ReLU(),
            *convolution(n_out, n_out),
        )

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        shortcut = X[:, :, :: self.stride, :: self.stride]
        shortcut = nn.functional.pad(shortcut, (0, 0, 0, 0, 0, self.n_added))
        return torch.relu(shortcut + self.residual(X))


def convolution(n_in: int, n_out: int, stride: int = 1) -> list[nn.Module]:
    """Return a convolution, initialized for a ReLU to follow, and its normalisation."""
    layer = nn.Conv2d(n_in, n_out, 3, stride, padding=1, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return [layer, nn.BatchNorm2d(n_out)]
