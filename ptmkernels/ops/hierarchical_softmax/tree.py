"""The binary tree of a hierarchical softmax."""

from __future__ import annotations

import dataclasses
from functools import cached_property

import numpy as np
import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class HuffmanTree:
    """The paths from the root to V leaves over V - 1 inner nodes.

    Attributes:
        offsets: int64 (V + 1,): the path of word w is path[offsets[w] : offsets[w + 1]].
        path: int32, each entry inner node * 2 + code bit; the root is node V - 2.
        depth: T, the number of nodes of the longest path.
    """

    offsets: Tensor
    path: Tensor
    depth: int = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        lengths = self.offsets[1:] - self.offsets[:-1]
        object.__setattr__(self, "depth", int(lengths.max()) if len(lengths) else 0)

    @staticmethod
    def from_counts(counts: Tensor | np.ndarray, ties: str = "queue") -> HuffmanTree:
        """The Huffman tree over falling, positive counts.

        Args:
            counts: (V,) integers.
            ties: which of equal counts comes first: "queue" is word2vec.c's rule, "heap" gensim's.

        Raises:
            ValueError: the counts are empty, rise or are not positive.
        """
        from ptmkernels._corpus import huffman_paths

        offsets, path = huffman_paths(np.asarray(counts).astype(np.int64).tolist(), ties=ties)
        return HuffmanTree(torch.from_numpy(offsets), torch.from_numpy(path))

    def __len__(self) -> int:
        return self.offsets.shape[0] - 1

    @property
    def num_nodes(self) -> int:
        return len(self) - 1

    def to(self, device: torch.device | str) -> HuffmanTree:
        return HuffmanTree(self.offsets.to(device), self.path.to(device))

    def codes(self, word: int) -> Tensor:
        """The code bits of a word from the root, (T,)."""
        return self.path[self.offsets[word] : self.offsets[word + 1]] & 1

    def points(self, word: int) -> Tensor:
        """The inner nodes on the way to a word, (T,)."""
        return self.path[self.offsets[word] : self.offsets[word + 1]] >> 1

    def entries(self, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All steps on the ways to `target` (B,): row of the batch, inner node, sign (1 for bit 0)."""
        return entries(self.offsets, self.path, target)

    @cached_property
    def above(self) -> tuple[Tensor, Tensor]:
        """Of each inner node: the node above it (-1 for the root) and the sign of the step to it."""
        up = torch.full((max(self.num_nodes, 0),), -1, dtype=torch.int64, device=self.path.device)
        sign = torch.zeros_like(up)
        starts = torch.zeros(self.path.shape[0] + 1, dtype=torch.bool, device=self.path.device)
        starts[self.offsets] = True
        inside = torch.nonzero(~starts[:-1])[:, 0]
        node = (self.path[inside] >> 1).long()
        up[node] = (self.path[inside - 1] >> 1).long()
        sign[node] = 1 - 2 * (self.path[inside - 1] & 1).long()
        return up, sign


def entries(offsets: Tensor, path: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """:meth:`HuffmanTree.entries` of a tree that is given by its tensors."""
    start, length = offsets[target], offsets[target + 1] - offsets[target]
    row = torch.repeat_interleave(length)
    first = length.cumsum(0) - length
    place = torch.arange(row.shape[0], device=row.device) - first[row] + start[row]
    entry = path[place]
    return row, (entry >> 1).long(), 1 - 2 * (entry & 1)
