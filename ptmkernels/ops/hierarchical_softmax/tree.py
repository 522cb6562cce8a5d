"""The binary tree of a hierarchical softmax."""

from __future__ import annotations

import dataclasses

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
    _descent: tuple[Tensor, Tensor] | None = dataclasses.field(
        init=False, default=None, repr=False, compare=False
    )

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

    @property
    def descent(self) -> tuple[Tensor, Tensor]:
        """The decisions from the root down, each with where its numbers are kept: (steps, levels).

        Each inner node has a word that stands for it, the one below it that code bits 0 alone lead to. So a
        number for each node on the way, and in the end for each word, finds room in an array (V,).

        Returns:
            steps: int32 (V - 1, 3): inner node, the word of what follows its code bit 0 (and of itself),
                and the word of what follows bit 1; nodes of one depth together.
            levels: int64 (T + 1,), on the CPU: where the steps of each depth begin, and where the last end.
        """
        if self._descent is None:  # not a cached_property, whose lock torch.compile does not know
            object.__setattr__(self, "_descent", self._make_descent())
        return self._descent

    def _make_descent(self) -> tuple[Tensor, Tensor]:
        device, nodes, count = self.path.device, max(self.num_nodes, 0), self.path.shape[0]
        starts, lengths = self.offsets[:-1], self.offsets[1:] - self.offsets[:-1]
        words = torch.arange(len(self), device=device)
        word = torch.repeat_interleave(words, lengths, output_size=count)
        node, bit = (self.path >> 1).long(), (self.path & 1).long()
        place = torch.arange(count, device=device) - starts[word]
        before = torch.nn.functional.pad(bit.cumsum(0), (1, 0))
        # Bits 1 from here to the end of the word's path, here included.
        ones = before[self.offsets[1:]][word] - before[:-1]

        def largest(values: Tensor) -> Tensor:
            """Of the entries of each node."""
            empty = torch.full((nodes,), -1, dtype=torch.int64, device=device)
            return empty.scatter_reduce(0, node, values, "amax")

        zero = largest(torch.where(ones == 0, word, -1))
        one = largest(torch.where((ones == 1) & (bit == 1), word, -1))
        depth, order = largest(place).sort(stable=True)
        steps = torch.stack([order, zero[order], one[order]], 1).to(torch.int32)
        depths = torch.arange(self.depth + 1, device=device)
        return steps, torch.searchsorted(depth, depths).cpu()


def entries(offsets: Tensor, path: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """:meth:`HuffmanTree.entries` of a tree that is given by its tensors."""
    start, length = offsets[target], offsets[target + 1] - offsets[target]
    row = torch.repeat_interleave(length)
    first = length.cumsum(0) - length
    place = torch.arange(row.shape[0], device=row.device) - first[row] + start[row]
    entry = path[place]
    return row, (entry >> 1).long(), 1 - 2 * (entry & 1)
