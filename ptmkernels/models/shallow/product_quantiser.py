"""Matrices as fastText quantises them: each row in parts, for each the nearest of 256 centroids.

Jegou, Douze and Schmid, "Product quantization for nearest neighbor search" (PAMI 2011); Joulin et al.,
"FastText.zip" (2016). The norms of the rows may be quantised apart.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

__all__ = ["CENTROIDS", "ProductQuantiser", "QuantisedMatrix", "quantised"]

CENTROIDS = 256
_ROUNDS = 25  # of k-means
_MOST_ROWS = 1 << 16  # that k-means looks at
_SEED = 1234


@dataclasses.dataclass(frozen=True)
class ProductQuantiser:
    """Centroids of the parts of a row.

    Attributes:
        width: D.
        part: numbers of a part; the last one may have fewer.
        centroids: float32 (256 D,): (256, numbers) of each part, one behind the other.
    """

    width: int
    part: int
    centroids: np.ndarray

    @property
    def parts(self) -> int:
        return -(-self.width // self.part)

    def columns(self, index: int) -> slice:
        """Of a part."""
        return slice(index * self.part, min((index + 1) * self.part, self.width))

    def of_part(self, index: int) -> np.ndarray:
        """(256, numbers)."""
        columns = self.columns(index)
        flat = self.centroids[columns.start * CENTROIDS : columns.stop * CENTROIDS]
        return flat.reshape(CENTROIDS, -1)

    def decoded(self, codes: np.ndarray) -> np.ndarray:
        """The rows, float32 (rows, D), that codes, uint8 (rows, parts), stand for."""
        rows = np.empty((len(codes), self.width), np.float32)
        for index in range(self.parts):
            rows[:, self.columns(index)] = self.of_part(index)[codes[:, index]]
        return rows


@dataclasses.dataclass(frozen=True)
class QuantisedMatrix:
    """Attributes:
    quantiser: of the rows.
    codes: uint8 (rows, parts).
    norms: the quantiser of their norms, and codes uint8 (rows, 1); None where rows keep their own.
    """

    quantiser: ProductQuantiser
    codes: np.ndarray
    norms: tuple[ProductQuantiser, np.ndarray] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, D)."""
        return len(self.codes), self.quantiser.width

    def dense(self) -> np.ndarray:
        """float32 (rows, D)."""
        rows = self.quantiser.decoded(self.codes)
        if self.norms is not None:
            quantiser, codes = self.norms
            rows *= quantiser.decoded(codes)
        return rows


def quantised(matrix: np.ndarray, part: int, norms: bool) -> QuantisedMatrix:
    """Quantise a matrix (rows, D), of at least 256 rows.

    Args:
        part: numbers that share a centroid.
        norms: quantise the rows' norms apart, and the rows at length 1.
    """
    of_norms = None
    if norms:
        lengths = np.linalg.norm(matrix, axis=1, keepdims=True).astype(np.float32)
        of_norms = _encoded(lengths, 1)
        matrix = matrix / np.where(lengths > 0, lengths, 1)
    return QuantisedMatrix(*_encoded(matrix, part), of_norms)


def _encoded(matrix: np.ndarray, part: int) -> tuple[ProductQuantiser, np.ndarray]:
    """A quantiser for rows, and their codes."""
    generator = torch.Generator().manual_seed(_SEED)
    rows, width = torch.from_numpy(np.array(matrix, np.float32)), matrix.shape[1]
    centroids, codes = [], []
    for start in range(0, width, part):
        columns = rows[:, start : start + part].contiguous()
        found = _centroids(columns, generator)
        centroids.append(found.flatten())
        codes.append(_nearest(columns, found).to(torch.uint8))
    quantiser = ProductQuantiser(width, part, torch.cat(centroids).numpy())
    return quantiser, torch.stack(codes, 1).numpy()


def _centroids(points: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Lloyd's k-means from random points, (256, numbers); a cluster without points takes a random one."""
    order = torch.randperm(len(points), generator=generator)
    points = points[order[:_MOST_ROWS]]
    centroids = points[:CENTROIDS].clone()
    for _ in range(_ROUNDS):
        nearest = _nearest(points, centroids)
        count = torch.bincount(nearest, minlength=CENTROIDS)
        sums = torch.zeros_like(centroids).index_add_(0, nearest, points)
        centroids = sums / count.clamp(min=1)[:, None]
        empty = torch.nonzero(count == 0)[:, 0]
        centroids[empty] = points[torch.randint(len(points), (len(empty),), generator=generator)]
    return centroids


def _nearest(points: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    """The place of the nearest centroid of each point."""
    lengths = (centroids * centroids).sum(1)
    return torch.cat([(lengths - 2 * p @ centroids.T).argmin(1) for p in points.split(_MOST_ROWS)])
