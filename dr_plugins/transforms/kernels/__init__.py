"""Image operations in two backends that compute the same pixels.

`pil` works on `PIL.Image.Image` of mode RGB, `tensor` on `torch.uint8` tensors
``[..., 3, height, width]`` of any strides on any device. Both export the same pure functions: no
randomness, no state, and the input is never modified (the result may share its memory). Results
are bit-identical, except those of `resize` with ``"bilinear"`` and ``"bicubic"``.
"""

from __future__ import annotations

from types import ModuleType

import torch
from PIL import Image

from dr_plugins.transforms.kernels import pil, tensor

__all__ = ["kernels_for", "pil", "tensor"]


def kernels_for(image: Image.Image | torch.Tensor) -> ModuleType:
    """Return the backend module for an image: `pil` or `tensor`.

    Args:
        image: RGB PIL image, or uint8 tensor ``[..., 3, height, width]``.

    Raises:
        TypeError: The image is neither.

    Example:
        >>> kernels_for(torch.zeros(3, 4, 5, dtype=torch.uint8)).size(torch.zeros(3, 4, 5))
        (4, 5)
    """
    if isinstance(image, Image.Image):
        if image.mode == "RGB":
            return pil
        got = f"a PIL image of mode {image.mode!r}; call image.convert('RGB') first"
    elif isinstance(image, torch.Tensor):
        if image.dtype == torch.uint8 and image.ndim >= 3 and image.shape[-3] == 3:
            return tensor
        got = f"a {image.dtype} tensor of shape {tuple(image.shape)}"
    else:
        got = f"{type(image).__module__}.{type(image).__qualname__}"
    raise TypeError(f"expected a PIL image (RGB) or a uint8 tensor [..., 3, H, W], got {got}")
