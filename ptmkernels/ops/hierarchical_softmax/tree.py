"""The binary tree of a hierarchical softmax."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class HuffmanTree:
    """The paths from the root to V leaves over V - 1 inner nodes.

    Attributes:
        offsets: int64 (V + 1,): the path of word w is path[offsets[w] : offsets[w + 1]].
        path: int32, each entry inner node * 2 + code bit; the root is node V - 2.
        depth: T, the number of nodes of the longest path.

    Raises:
        ValueError, TypeError: offsets do not rise or path names nodes that are not there; the message
            names which.
    """

    offsets: Tensor
    path: Tensor
    depth: int = dataclasses.field(init=False)
    _descent: tuple[Tensor, Tensor] | None = dataclasses.field(
        init=False, default=None, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        for name, dtype in (("offsets", torch.int64), ("path", torch.int32)):
            tensor = getattr(self, name)
            if not isinstance(tensor, Tensor) or tensor.dtype != dtype or tensor.dim() != 1:
                raise TypeError(f"{name} must be a tensor of one dimension and {dtype}")
            object.__setattr__(self, name, tensor.contiguous())  # the kernels read it so
        if len(self.offsets) == 0:
            raise ValueError("offsets is empty; expected V + 1 numbers")
        lengths = self.offsets[1:] - self.offsets[:-1]
        if self.path.device.type == "cpu":
            self._check(lengths)
        object.__setattr__(self, "depth", int(lengths.max()) if len(lengths) else 0)

    def _check(self, lengths: Tensor) -> None:
        """The kernels follow the paths without looking."""
        count, nodes = len(self.path), max(self.num_nodes, 0)
        ends = (int(self.offsets[0]), int(self.offsets[-1]))
        if ends != (0, count) or bool((lengths < 0).any()):
            raise ValueError(f"offsets must rise from 0 to {count}, the length of path")
        low, high = (int(self.path.min()), int(self.path.max())) if count else (0, -1)
        if low < 0 or high >= 2 * nodes:
            raise ValueError(
                f"path holds the inner nodes {low >> 1}..{high >> 1}; expected 0..{nodes - 1} for "
                f"{len(self)} words"
            )

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

        counts = np.asarray(counts)
        if counts.ndim != 1:
            raise ValueError(f"counts has shape {counts.shape}; expected one dimension (V,)")
        with np.errstate(invalid="ignore"):
            whole = counts.astype(np.int64)
        if (whole != counts).any():
            raise ValueError(f"counts holds {counts[whole != counts][0]}; expected whole numbers")
        offsets, path = huffman_paths(whole.tolist(), ties=ties)
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

        Raises:
            ValueError: the paths are none of one binary tree.
        """
        if self._descent is None:  # not a cached_property, whose lock torch.compile does not know
            object.__setattr__(self, "_descent", self._make_descent())
        return self._descent

    def _make_descent(self) -> tuple[Tensor, Tensor]:
        if not torch.compiler.is_compiling():
            self._check_ways()
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

    def _check_ways(self) -> None:
        """Each node and code bit lead to one thing: V words and all nodes but the root, 2 (V - 1) in all."""
        way, words = self.path.long(), torch.arange(len(self), device=self.path.device)
        starts, ends = self.offsets[:-1], self.offsets[1:]
        fits = bool((ends > starts).all()) or len(self) == 1
        if fits and len(way):
            leads_to = (way >> 1).roll(-1).index_copy(0, ends - 1, words + self.num_nodes)
            first = torch.full((2 * self.num_nodes,), 2 * len(self), device=way.device)
            first = first.scatter_reduce(0, way, leads_to, "amin")
            last = torch.full_like(first, -1).scatter_reduce(0, way, leads_to, "amax")
            fits = bool((first == last).all()) and bool((way[starts] >> 1 == way[0] >> 1).all())
        if not fits:
            raise ValueError(
                f"offsets and path are no paths of one binary tree of {len(self)} words"
            )


def entries(offsets: Tensor, path: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """:meth:`HuffmanTree.entries` of a tree that is given by its tensors."""
    start, length = offsets[target], offsets[target + 1] - offsets[target]
    row = torch.repeat_interleave(length)
    first = length.cumsum(0) - length
    place = torch.arange(row.shape[0], device=row.device) - first[row] + start[row]
    entry = path[place]
    return row, (entry >> 1).long(), 1 - 2 * (entry & 1)
