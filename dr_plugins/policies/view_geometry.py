"""Where a view shows the pixels of its image: points, boxes and masks follow them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dr_plugins.transforms.base import Size


@dataclass(frozen=True)
class ViewGeometry:
    """The map from the pixels of an image to those of a view, see `Policy.geometry`.

    Points are (x, y) in pixels, right and down from the top left *corner*, as in Pillow's boxes:
    the pixel of row ``i`` and column ``j`` covers x from ``j`` to ``j + 1`` and y from ``i`` to
    ``i + 1``, with its centre at ``(j + 0.5, i + 0.5)``.

    What the map does not say: random erasing blackens a box of the view, and mixing covers pixels
    with those of the partner, which has a geometry too.

    Attributes:
        image_size: (height, width) of the image.
        steps: For each resampling, in order, the affine matrix from its input to its output,
            float64 ``[3, 3]`` for columns (x, y, 1), and the (height, width) of the output.

    Example:
        >>> from dr_plugins import Policy
        >>> policy = Policy.load("rrc", size=50)
        >>> geometry = policy.geometry([(10, 20, 100, 200), 0], (375, 500))  # crop, flip
        >>> geometry.outline().tolist()
        [[20.0, 10.0], [220.0, 10.0], [220.0, 110.0], [20.0, 110.0]]
        >>> geometry.boxes(np.array([[120, 10, 400, 60]])).tolist()
        [[25.0, 0.0, 50.0, 25.0]]
    """

    image_size: Size
    steps: Sequence[tuple[np.ndarray, Size]]

    @cached_property
    def matrix(self) -> np.ndarray:
        """The whole map from image to view, float64 ``[3, 3]`` for columns (x, y, 1)."""
        matrix = np.eye(3)
        for step, _ in self.steps:
            matrix = step @ matrix
        return matrix

    @property
    def view_size(self) -> Size:
        """(height, width) of the view."""
        return self.steps[-1][1] if self.steps else self.image_size

    def to_view(self, points: np.ndarray) -> np.ndarray:
        """Return where points ``[..., 2]`` of the image are in the view, maybe outside of it."""
        return _moved(self.matrix, points)

    def to_image(self, points: np.ndarray) -> np.ndarray:
        """Return where points ``[..., 2]`` of the view are in the image, maybe outside of it."""
        return _moved(np.linalg.inv(self.matrix), points)

    def outline(self) -> np.ndarray:
        """Return the view's corners in the image, to draw it there: float64 ``[4, 2]``.

        They are the top left, top right, bottom right and bottom left one of the view.
        """
        height, width = self.view_size
        return self.to_image(_corners(np.array([0, 0, width, height])))

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Return the boxes around what boxes of the image become, cut at the view's border.

        Args:
            boxes: (left, top, right, bottom), ``[..., 4]``.

        Returns:
            float64 ``[..., 4]``; without area where nothing of a box is in the view.
        """
        boxes = np.asarray(boxes)
        found = [self._box(corners) for corners in _corners(boxes.reshape(-1, 4))]
        return np.array(found).reshape(boxes.shape)

    def _box(self, polygon: np.ndarray) -> np.ndarray:
        polygon = _cut(polygon, self.image_size)
        for matrix, size in self.steps:
            polygon = _cut(_moved(matrix, polygon), size)
        return np.concatenate([polygon.min(0), polygon.max(0)]) if len(polygon) else np.zeros(4)

    def mask(self, mask: np.ndarray, fill: int = 0) -> np.ndarray:
        """Return a mask of the image as a mask of the view: the value at each pixel's centre.

        Args:
            mask: Any dtype, ``[height, width]``.
            fill: Value where the view shows nothing of the image.

        Returns:
            ``[H, W]`` of the same dtype.
        """
        if mask.shape != self.image_size:
            raise ValueError(f"the mask is {mask.shape}, expected the image's {self.image_size}")
        points, visible = self._sources()
        column, row = np.floor(points[visible]).astype(int).T
        moved = np.full(self.view_size, fill, mask.dtype)
        moved[visible] = mask[row, column]
        return moved

    def visible(self) -> np.ndarray:
        """Return which pixels show the image, not the black that a crop or a rotation lets in.

        Returns:
            Boolean ``[H, W]``.
        """
        return self._sources()[1]

    def _sources(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the centre of each pixel comes from, and whether it was never out of a frame."""
        height, width = self.view_size
        points = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1) + 0.5
        visible = np.ones((height, width), bool)
        inputs = [self.image_size, *(size for _, size in self.steps[:-1])]
        for (matrix, _), size in zip(reversed(self.steps), reversed(inputs), strict=True):
            # Rounded so that a centre between two pixels belongs to the second, as for Pillow.
            points = _moved(np.linalg.inv(matrix), points).round(9)
            visible &= ((points >= 0) & (points < size[::-1])).all(-1)
        return points, visible


def _moved(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return np.asarray(points) @ matrix[:2, :2].T + matrix[:2, 2]


def _cut(polygon: np.ndarray, size: Size) -> np.ndarray:
    """The part of a convex polygon ``[n, 2]`` that lies within a frame (Sutherland-Hodgman)."""
    for axis, side in ((0, size[1]), (1, size[0])):
        for sign, bound in ((1, 0), (-1, -side)):
            depth = sign * polygon[:, axis] - bound
            parts = []
            for i, start in enumerate(depth):
                end = depth[i - 1]
                if (start < 0) != (end < 0):
                    share = start / (start - end)
                    parts.append(polygon[i] + share * (polygon[i - 1] - polygon[i]))
                if start >= 0:
                    parts.append(polygon[i])
            polygon = np.array(parts).reshape(-1, 2)
    return polygon


def _corners(boxes: np.ndarray) -> np.ndarray:
    """The corners of boxes ``[..., 4]``, clockwise from the top left one: ``[..., 4, 2]``."""
    return boxes[..., [[0, 1], [2, 1], [2, 3], [0, 3]]]
