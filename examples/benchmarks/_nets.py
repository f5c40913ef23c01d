"""Nets of the benchmarks that the package does not have."""

import torch
from torch import nn


class TableNet(nn.Module):
    """Two hidden layers; one output has no axis of its own."""

    def __init__(self, n_outputs=1, width=64):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.LazyLinear(width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, n_outputs),
        )

    def forward(self, X):
        outputs = self.layers(X)
        return outputs.squeeze(-1) if outputs.shape[1] == 1 else outputs


class StridedCNN(nn.Sequential):
    """Strides instead of pooling, and batch normalisation."""

    def __init__(self, n_outputs=10):
        super().__init__(
            nn.LazyConv2d(12, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.Conv2d(12, 24, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(24),
            nn.ReLU(),
            nn.Flatten(),
            nn.LazyLinear(64),
            nn.ReLU(),
            nn.Linear(64, n_outputs),
        )


class Block(nn.Module):
    """Two convolutions around which the input is carried."""

    def __init__(self, n_in, n_out):
        super().__init__()
        self.shortcut = nn.Conv2d(n_in, n_out, 1, stride=2, bias=False)
        self.layers = nn.Sequential(
            nn.Conv2d(n_in, n_out, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(n_out),
            nn.ReLU(),
            nn.Conv2d(n_out, n_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(n_out),
        )

    def forward(self, X):
        return torch.relu(self.shortcut(X) + self.layers(X))


class ResNet(nn.Sequential):
    """Two residual blocks and the mean over the pixels."""

    def __init__(self, n_outputs=10):
        super().__init__(
            nn.LazyConv2d(12, 3, padding=1, bias=False),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            Block(12, 24),
            Block(24, 32),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(32, n_outputs),
        )


class AttentionLayer(nn.Module):
    """Self-attention and a small net for each token, both with layer normalisation."""

    def __init__(self, width, n_heads, dropout):
        super().__init__()
        self.first = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, n_heads, batch_first=True)
        self.second = nn.LayerNorm(width)
        self.net = nn.Sequential(
            nn.Linear(width, 2 * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(2 * width, width),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, X):
        tokens = self.first(X)
        attended, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        X = X + self.dropout(attended)
        return X + self.dropout(self.net(self.second(X)))


class Attention(nn.Module):
    """The rows of a picture are the tokens."""

    def __init__(self, n_outputs=10, width=32, n_layers=2, dropout=0.1):
        super().__init__()
        self.embedding = nn.LazyLinear(width)
        self.position = nn.Parameter(0.02 * torch.randn(32, width))
        self.layers = nn.Sequential(
            *(AttentionLayer(width, 4, dropout) for _ in range(n_layers))
        )
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, n_outputs))

    def forward(self, X):
        tokens = self.embedding(X.squeeze(1))
        tokens = tokens + self.position[: tokens.shape[1]]
        return self.head(self.layers(tokens).mean(1))


class OfLines(nn.Module):
    """The lines of a picture, of all its channels together, are a sequence."""

    def __init__(self, n_inputs, width):
        super().__init__()
        self.embedding = nn.Linear(n_inputs, width)
        self.head = nn.Linear(width, 10)

    def lines(self, X):
        return self.embedding(X.transpose(1, 2).flatten(2))


class LSTM(OfLines):
    """Reads the lines from the top, and answers at the last one."""

    def __init__(self, n_inputs=96, width=128):
        super().__init__(n_inputs, width)
        self.lstm = nn.LSTM(width, width, batch_first=True)

    def forward(self, X):
        return self.head(self.lstm(self.lines(X))[0][:, -1])


class Encoder(OfLines):
    """Layers of torch's own encoder between the lines."""

    def __init__(self, n_inputs=96, width=128, n_layers=4):
        super().__init__(n_inputs, width)
        layer = nn.TransformerEncoderLayer(
            width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, n_layers, enable_nested_tensor=False)

    def forward(self, X):
        return self.head(self.layers(self.lines(X)).mean(1))


class UNet(nn.Module):
    """One level down and up again; the noise is subtracted."""

    def __init__(self, width=8):
        super().__init__()
        self.before = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU())
        self.below = nn.Sequential(
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(2 * width, width, 2, stride=2),
            nn.ReLU(),
        )
        self.after = nn.Sequential(
            nn.Conv2d(2 * width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 1, 3, padding=1),
        )

    def forward(self, X):
        above = self.before(X)
        both = torch.cat([above, self.below(above)], dim=1)
        return X - self.after(both)
