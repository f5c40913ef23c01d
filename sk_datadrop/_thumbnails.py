"""Single samples, small enough that hundreds fit into one page.

Images become PNG files, for which the standard library is enough: a report asks for no
imaging library.
"""

import struct
import zlib
from base64 import b64encode
from collections.abc import Sequence
from typing import Any

import numpy as np

MOST_PIXELS = 96
"""Pixels along each axis of an image."""

LONGEST_SIDE = 72
"""Length of an image on the page, in CSS pixels."""

MOST_POINTS = 160
MOST_CHANNELS = 8
LINE_WIDTH, LINE_HEIGHT = 120, 48
"""Size of the picture of a signal, in CSS pixels."""

MOST_VALUES = 8
"""Values shown of a row of a table."""


def thumbnail(
    values: np.ndarray, scale: np.ndarray, names: Sequence[str] | None = None
) -> dict[str, Any]:
    """Return what a page needs to show a sample.

    An image (C, H, W) or (H, W) has the keys "source", "width" and "height"; a signal
    (C, L) has "lines", lists of points; a row of a table has "values", pairs of name
    and text, and "n_more". Black and white of an image are the extremes of `scale`.
    """
    # Of a volume the middle slice.
    while values.ndim > 3:
        values = values[:, values.shape[1] // 2]
    if values.ndim == 2 and min(values.shape) > MOST_CHANNELS:
        # Too many lines for a signal: an image without an axis of channels.
        values = values[None]
    if values.ndim == 3:
        return _image(values, float(np.min(scale)), float(np.max(scale)))
    if values.ndim == 2:
        return {"lines": [_line(channel, scale) for channel in values[:MOST_CHANNELS]]}
    values = values.reshape(-1)
    names = [f"x{i}" for i in range(len(values))] if names is None else names
    shown = zip(names, values[:MOST_VALUES], strict=False)
    return {
        "values": [(name, f"{value:.4g}") for name, value in shown],
        "n_more": max(len(values) - MOST_VALUES, 0),
    }


def _image(values: np.ndarray, low: float, high: float) -> dict[str, Any]:
    height, width = values.shape[1:]
    zoom = LONGEST_SIDE / max(height, width)
    # Colours, with or without opacity; of other channels the first.
    channels = values[:3] if len(values) in (3, 4) else values[:1]
    small = _shrunk(_shrunk(channels, 1), 2)
    levels = np.clip((small - low) / max(high - low, 1e-12), 0, 1)
    pixels = np.moveaxis(np.nan_to_num(levels) * 255, 0, -1).round().astype(np.uint8)
    return {
        "source": f"data:image/png;base64,{b64encode(png(pixels)).decode()}",
        "width": max(round(width * zoom), 1),
        "height": max(round(height * zoom), 1),
    }


def _shrunk(values: np.ndarray, axis: int) -> np.ndarray:
    """Return means of neighbours along an axis with too many pixels."""
    step = -(-values.shape[axis] // MOST_PIXELS)
    starts = np.arange(0, values.shape[axis], step)
    sums = np.add.reduceat(values.astype(np.float64), starts, axis=axis)
    sizes = np.diff(np.append(starts, values.shape[axis]))
    return np.asarray(sums / sizes.reshape([-1 if i == axis else 1 for i in range(3)]))


def _line(channel: np.ndarray, scale: np.ndarray) -> str:
    """Return the points of a line, as SVG takes them."""
    low, high = float(np.min(scale)), float(np.max(scale))
    n_points = min(len(channel), MOST_POINTS)
    chosen = np.linspace(0, len(channel) - 1, n_points).round().astype(int)
    x = np.linspace(0, LINE_WIDTH, n_points)
    levels = np.nan_to_num((channel[chosen] - low) / max(high - low, 1e-12))
    y = LINE_HEIGHT * (1 - np.clip(levels, 0, 1))
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))


def png(pixels: np.ndarray) -> bytes:
    """Encode an image.

    Parameters
    ----------
    pixels : ndarray of shape (height, width, 1 or 3), dtype uint8
        Levels of grey, or of red, green and blue.

    Returns
    -------
    bytes
    """
    height, width, n_channels = pixels.shape
    colour_type = 0 if n_channels == 1 else 2
    header = struct.pack(">2I5B", width, height, 8, colour_type, 0, 0, 0)
    # Each line begins with the number of its filter, of which 0 is none.
    lines = np.pad(pixels.reshape(height, -1), [(0, 0), (1, 0)])
    parts = [
        (b"IHDR", header),
        (b"IDAT", zlib.compress(lines.tobytes())),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data))
        + kind
        + data
        + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )
