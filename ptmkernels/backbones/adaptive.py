"""Adaptive input and softmax: rare words get narrower vectors and a softmax of their own.

Input: Baevski and Auli 2019, section 3.1; softmax: Grave et al. 2017, section 4; both as in Transformer-XL.
The vocabulary is sorted by frequency and cut into clusters; cluster n has vectors of width E' / div_val^n.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ptmkernels._mask_tensors import concrete
from ptmkernels.backbones.embeddings import check_ids

__all__ = ["AdaptiveEmbedding", "AdaptiveSoftmax"]


def _clusters(vocab_size: int, cutoffs: Sequence[int]) -> list[tuple[int, int]]:
    """First id of each cluster, and the one after its last."""
    return list(zip([0, *cutoffs], [*cutoffs, vocab_size], strict=True))


class AdaptiveEmbedding(nn.Module):
    """projection_n(table_n[id]) * sqrt(E) for an id of cluster n.

    Args:
        vocab_size: V.
        hidden_size: E.
        embedding_size: E', the width of the first cluster's vectors.
        cutoffs: the first id of each cluster but the first.
        div_val: what the width is divided by from cluster to cluster; 1 = one table, which is projected
            where E' differs from E.
    """

    def __init__(
        self,
        vocab_size: int,
        hidden_size: int,
        embedding_size: int,
        cutoffs: Sequence[int],
        div_val: int,
    ) -> None:
        super().__init__()
        self.vocab_size, self.hidden_size = vocab_size, hidden_size
        self.clusters = _clusters(vocab_size, cutoffs if div_val > 1 else ())
        widths = [embedding_size // div_val**n for n in range(len(self.clusters))]
        sizes = [high - low for low, high in self.clusters]
        self.tables = nn.ModuleList(map(nn.Embedding, sizes, widths))
        self.projections = nn.ParameterList()
        if div_val > 1 or embedding_size != hidden_size:
            self.projections.extend(torch.empty(hidden_size, width) for width in widths)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, L) ids to (B, L, E)."""
        check_ids("input_ids", ids, self.vocab_size)
        hidden = self._embed(ids, 0)
        for n, (low, high) in enumerate(self.clusters[1:], 1):
            inside = ((low <= ids) & (ids < high))[..., None]
            hidden = torch.where(inside, self._embed(ids - low, n), hidden)
        return hidden * self.hidden_size**0.5

    def _embed(self, ids: Tensor, n: int) -> Tensor:
        """Ids within cluster n; others give anything. All clusters run on all tokens, since the narrow ones
        cost little and no shape depends on the ids."""
        vectors = self.tables[n](ids.clamp(0, self.tables[n].num_embeddings - 1))
        return F.linear(vectors, self.projections[n]) if self.projections else vectors


class _Output(nn.Module):
    """The bias of a cluster's words, and their vectors where they are not the input's."""

    def __init__(self, size: int, width: int | None) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.empty(size))
        self.weight = None if width is None else nn.Parameter(torch.empty(size, width))


class AdaptiveSoftmax(nn.Module):
    """p(word) of the first cluster from one softmax over its words and the clusters; of another cluster,
    p(cluster) times a softmax within it.

    Args:
        vocab_size, hidden_size, embedding_size, cutoffs, div_val: as for :class:`AdaptiveEmbedding`.
        tied_projections: for each cluster, whether its projection is the input's.
        tied_tables: whether the words' vectors are the input's.
    """

    def __init__(
        self,
        vocab_size: int,
        hidden_size: int,
        embedding_size: int,
        cutoffs: Sequence[int],
        div_val: int,
        tied_projections: Sequence[bool],
        tied_tables: bool,
    ) -> None:
        super().__init__()
        self.clusters = _clusters(vocab_size, cutoffs)
        self.one_table = div_val == 1
        tables = _clusters(vocab_size, () if self.one_table else cutoffs)
        widths = [embedding_size // div_val**n for n in range(len(self.clusters))]
        self.layers = nn.ModuleList(
            _Output(high - low, None if tied_tables else width)
            for (low, high), width in zip(tables, widths, strict=False)
        )
        self.projected = div_val > 1 or embedding_size != hidden_size
        own = [n for n, tied in enumerate(tied_projections) if self.projected and not tied]
        self.projections = nn.ParameterDict(
            {str(n): nn.Parameter(torch.empty(hidden_size, widths[n])) for n in own}
        )
        self.cluster_weight = self.cluster_bias = None
        if cutoffs:
            self.cluster_weight = nn.Parameter(torch.empty(len(cutoffs), embedding_size))
            self.cluster_bias = nn.Parameter(torch.empty(len(cutoffs)))

    def forward(self, hidden: Tensor, labels: Tensor, embedding: AdaptiveEmbedding) -> Tensor:
        """-log p(label).

        Args:
            hidden: (N, E).
            labels: (N,) ids; a negative one gives 0.
            embedding: the input's tables and projections.

        Returns:
            (N,).
        """
        shortlist = self.clusters[0][1]
        column = labels.clamp(0, shortlist - 1)
        for n, (low, high) in enumerate(self.clusters[1:], 1):
            column = torch.where((low <= labels) & (labels < high), shortlist + n - 1, column)
        result = self._log_prob(hidden, 0, embedding).gather(1, column[:, None]).squeeze(1)
        for n in range(1, len(self.clusters)):
            result = self._add_cluster(result, n, hidden, labels, embedding)
        return torch.where(labels < 0, 0.0, -result)

    def _add_cluster(
        self, result: Tensor, n: int, hidden: Tensor, labels: Tensor, embedding: AdaptiveEmbedding
    ) -> Tensor:
        """Add log p(label | cluster n) where the label is in it.

        While a graph is traced or captured no shape may depend on the labels, so all rows are computed.
        Elsewhere the rows are counted, for which a GPU is waited for: all of them would cost far more.
        """
        low, high = self.clusters[n]
        inside = (low <= labels) & (labels < high)
        if concrete(labels):
            rows = inside.nonzero().squeeze(1)
            within = self._log_prob(hidden[rows], n, embedding)
            return result.index_add(0, rows, within.gather(1, labels[rows, None] - low).squeeze(1))
        places = (labels - low).clamp(0, high - low - 1)
        within = self._log_prob(hidden, n, embedding).gather(1, places[:, None]).squeeze(1)
        return result + torch.where(inside, within, 0.0)

    def log_prob(self, hidden: Tensor, embedding: AdaptiveEmbedding) -> Tensor:
        """(..., E) to the log-probabilities of all words, (..., V)."""
        head = self._log_prob(hidden, 0, embedding)
        shortlist = self.clusters[0][1]
        parts = [head[..., :shortlist]]
        for n in range(1, len(self.clusters)):
            cluster = head[..., shortlist + n - 1, None]
            parts.append(cluster + self._log_prob(hidden, n, embedding))
        return torch.cat(parts, -1)

    def _log_prob(self, hidden: Tensor, n: int, embedding: AdaptiveEmbedding) -> Tensor:
        """Log-softmax over the words of cluster n, for the first one followed by the clusters."""
        if self.projected:
            own = str(n) in self.projections
            shared = 0 if self.one_table else n
            hidden = hidden @ (self.projections[str(n)] if own else embedding.projections[shared])
        low, high = self.clusters[n] if self.one_table else (0, None)
        layer, table = (
            each[0 if self.one_table else n] for each in (self.layers, embedding.tables)
        )
        weight = (table if layer.weight is None else layer).weight[low:high]
        bias = layer.bias[low:high]
        if n == 0 and self.cluster_weight is not None:
            weight = torch.cat([weight, self.cluster_weight])
            bias = torch.cat([bias, self.cluster_bias])
        logits = F.linear(hidden, weight, bias)
        return logits.log_softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
