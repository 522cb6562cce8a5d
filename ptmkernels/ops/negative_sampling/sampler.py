"""The alias table from which the kernels draw negatives."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from ptmkernels.ops.philox import philox4x32
from ptmkernels.ops.word_vectors.checks import check_device, check_ids, check_type

_WORD = 0xFFFFFFFF


@dataclasses.dataclass(frozen=True, eq=False)
class AliasTable:
    """A distribution over V ids as Walker's alias table: one draw costs two look-ups.

    Attributes:
        table: int64 (V,), threshold << 32 | alias (see ``ptmkernels._corpus.alias_table``).
        probabilities: floating (V,), the distribution.

    Raises:
        ValueError, TypeError: they are no table and its distribution; the message names which.
    """

    table: Tensor
    probabilities: Tensor
    _on_host: Tensor | None = dataclasses.field(init=False, default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, kind in (("table", "int64"), ("probabilities", "floating")):
            tensor = getattr(self, name)
            check_type(name, tensor, Tensor)
            fits = tensor.dtype == torch.int64 if kind == "int64" else tensor.is_floating_point()
            if not fits or tensor.dim() != 1:
                raise TypeError(
                    f"{name} is {tensor.dtype} {tuple(tensor.shape)}; expected {kind} (V,)"
                )
            object.__setattr__(self, name, tensor.contiguous())  # the kernels read it so
        if self.table.shape != self.probabilities.shape:
            raise ValueError(
                f"probabilities has {len(self.probabilities)} values; expected {len(self)} as table"
            )
        check_device("probabilities", self.probabilities, self.table.device)
        aliases = self.table.view(torch.int32)[::2]  # the low halves
        check_ids("table", aliases, tuple(aliases.shape), len(self), self.table.device)

    @staticmethod
    def from_weights(weights: Tensor | np.ndarray) -> AliasTable:
        """The distribution in proportion to `weights` (V,): not negative, finite, of positive sum.

        Raises:
            ValueError: the weights are none; the message names the first that does not fit.
        """
        from ptmkernels._corpus import alias_table

        values = _as_float64(weights)
        if values.ndim != 1:
            raise ValueError(f"weights has shape {values.shape}; expected one dimension (V,)")
        table = torch.from_numpy(alias_table(values))
        return AliasTable(table, torch.from_numpy((values / values.sum()).astype(np.float32)))

    @staticmethod
    def from_counts(counts: Tensor | np.ndarray, power: float = 0.75) -> AliasTable:
        """Noise in proportion to count ** power: 0.75 in word2vec, 0.5 in fastText."""
        return AliasTable.from_weights(_as_float64(counts) ** power)

    def __len__(self) -> int:
        return self.table.shape[0]

    def to(self, device: torch.device | str) -> AliasTable:
        moved = AliasTable(self.table.to(device), self.probabilities.to(device))
        object.__setattr__(moved, "_on_host", self.on_host)
        return moved

    @property
    def on_host(self) -> Tensor:
        """The probabilities on the CPU: read once from the device where the table was made there."""
        if self._on_host is None:
            object.__setattr__(self, "_on_host", self.probabilities.detach().cpu())
        return self._on_host

    def resolve(self, cell_word: Tensor, threshold_word: Tensor) -> Tensor:
        """Ids from two uniform 32-bit words each (int64 tensors of one shape)."""
        cell = (cell_word * len(self)) >> 32
        entry = self.table[cell]
        return torch.where(threshold_word < (entry >> 32 & _WORD), cell, entry & _WORD)

    def sample(self, shape: tuple[int, int], seed: Tensor) -> Tensor:
        """Ids (B, N) as the kernels draw them.

        Draw n of row b takes the Philox words 2 (n mod 2) and the one after it of the counter
        (b low, b high, n // 2, 0).

        Args:
            shape: (B, N).
            seed: int64 (1,).
        """
        batch, count = shape
        rows = torch.arange(batch, device=seed.device)[:, None]
        calls = torch.arange((count + 1) // 2, device=seed.device)[None, :]
        zero = torch.zeros_like(calls)
        words = philox4x32((rows & _WORD, rows >> 32, calls, zero), seed)
        pairs = words.view(batch, 2 * calls.shape[1], 2)[:, :count]
        return self.resolve(pairs[..., 0], pairs[..., 1])


def _as_float64(values: Tensor | np.ndarray) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().double().cpu().numpy()
    return np.asarray(values, dtype=np.float64)
