"""The fused steps in plain PyTorch, a pair at a time: what the kernels compute, slowly.

`draws` gives every random choice of the fast mode with the bits of the kernels; `train_step_` follows the
kernels' order of updates; `Word2vecExact` is word2vec.c in float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ptmkernels.ops.hierarchical_softmax.tree import HuffmanTree
from ptmkernels.ops.negative_sampling.sampler import AliasTable
from ptmkernels.ops.philox import philox4x32

MAX_SENTENCE = 1000
TILE_ROWS, TILE_OUTPUTS = 4, 6
LOSS_EVERY = 64  # the loss is taken from one window in so many
_WORD = 0xFFFFFFFF


def draws(
    positions: Tensor, seed: Tensor, window: int, negatives: int, sampler: AliasTable | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The random choices of the tokens at `positions` (n,) of the training stream.

    Philox counter (t low, t high, call, 0): word 0 decides whether the token stays, word 1 how far its
    window reaches, the following words, two by two, are its negatives.

    Returns:
        keep_word (n,) to be compared with ``keep_thresholds``, reach (n,) in 1..window, and the
        negatives (n, N).
    """
    calls = torch.arange((2 * negatives + 2 + 3) // 4, device=positions.device)[None, :]
    t = positions[:, None]
    words = philox4x32((t & _WORD, t >> 32, calls, torch.zeros_like(calls)), seed).flatten(1)
    reach = 1 + (words[:, 1] * window >> 32)
    pairs = words[:, 2 : 2 + 2 * negatives].unflatten(1, (-1, 2)) if negatives else words[:, :0]
    if sampler is None or not negatives:
        return words[:, 0], reach, words[:, :0]
    return words[:, 0], reach, sampler.resolve(pairs[..., 0], pairs[..., 1])


def sentences(tokens: Tensor) -> Iterator[tuple[int, Tensor]]:
    """(place of the first token, tokens) of each sentence; negative ids end one, as 1000 tokens do."""
    start = 0
    for i, token in enumerate([*tokens.tolist(), -1]):
        if token < 0 or i - start == MAX_SENTENCE:
            if i > start:
                yield start, tokens[start:i]
            start = i + 1 if token < 0 else i


def train_step_(
    input_weight: Tensor,
    output_weight: Tensor,
    tokens: Tensor,
    *,
    cbow: bool,
    window: int,
    learning_rate: float,
    min_learning_rate: float,
    position: int,
    total: int,
    seed: Tensor,
    keep: Tensor | None,
    sampler: AliasTable | None,
    negatives: int,
    tree: HuffmanTree | None,
    subwords: tuple[Tensor, Tensor] | None,
    outputs_at_once: int = 0,
) -> tuple[float, float, float, float]:
    """One pass over `tokens`, updating both matrices; returns loss, loss pairs, pairs, words.

    The order is that of the CPU's kernels (csrc/word_vectors/cpu/tile.h): a tile of 4 contexts takes all its
    products first, then applies its updates in order. With `outputs_at_once` it is that of the Triton
    kernels, were their windows trained one after the other (triton_step.py): one context at a time, so many
    outputs at a time, and the mean of sub-words made anew for each window.
    """
    loss = loss_pairs = pairs = words = 0
    for start, sentence in sentences(tokens):
        places = torch.arange(start, start + len(sentence), device=tokens.device) + position
        keep_word, reach, drawn = draws(places, seed, window, negatives, sampler)
        kept = torch.ones_like(keep_word, dtype=torch.bool)
        if keep is not None:
            kept = keep_word < (keep.long() & _WORD)[sentence.long()]
        sentence, reach, drawn, places = sentence[kept], reach[kept], drawn[kept], places[kept]
        if not len(sentence):
            continue
        left = 1 - int(places[0]) / (total + 1)
        rate = max(learning_rate * left, min_learning_rate)
        words += len(sentence)
        staged = not cbow and not outputs_at_once
        rows = _Rows(input_weight, sentence, subwords, window if staged else None)
        for i, word in enumerate(sentence.tolist()):
            rows.reach(i)
            low, high = max(0, i - int(reach[i])), min(len(sentence) - 1, i + int(reach[i]))
            contexts = [j for j in range(low, high + 1) if j != i]
            if not contexts:
                continue
            outputs = _outputs(word, drawn[i].tolist(), tree, rate)
            if cbow:
                window_loss = _train_mean(rows, contexts, output_weight, outputs)
            else:
                size = 1 if outputs_at_once else TILE_ROWS
                window_loss = sum(
                    _train_tile(rows, contexts[c : c + size], output_weight, block)
                    for block in _cut(outputs, outputs_at_once)
                    for c in range(0, len(contexts), size)
                )
            pairs += len(contexts)
            if int(places[i]) % LOSS_EVERY == 0:
                loss += window_loss / rate
                loss_pairs += 1 if cbow else len(contexts)
        rows.reach(len(sentence) + window)
    return loss, loss_pairs, pairs, words


class _Rows:
    """The input rows of a sentence's words; with sub-words their means, kept while within reach."""

    def __init__(self, weight, sentence, subwords, window):
        self.weight, self.sentence, self.window = weight, sentence.tolist(), window
        self.subwords = subwords
        self.staged: dict[int, tuple[Tensor, Tensor]] = {}

    def ids(self, j: int) -> list[int]:
        if self.subwords is None:
            return [self.sentence[j]]
        offsets, rows = self.subwords
        return rows[offsets[self.sentence[j]] : offsets[self.sentence[j] + 1]].tolist()

    def reach(self, i: int) -> None:
        """Word i is the centre: what has left the window is given back, what has entered is made."""
        if self.subwords is None or self.window is None:
            return
        for j in [j for j in self.staged if j < i - self.window]:
            row, first = self.staged.pop(j)
            for r in self.ids(j):
                self.weight[r] += row - first
        for j in range(max(0, i - self.window), min(i + self.window, len(self.sentence) - 1) + 1):
            if j not in self.staged:
                row = self.weight[self.ids(j)].mean(0)
                self.staged[j] = (row, row.clone())

    def __getitem__(self, j: int) -> Tensor:
        if j in self.staged:
            return self.staged[j][0]
        return self.weight[self.ids(j)].mean(0)

    def add(self, j: int, change: Tensor) -> None:
        if j in self.staged:
            self.staged[j][0].add_(change)
            return
        for row in self.ids(j):
            self.weight[row] += change


def _outputs(
    word: int, negatives: list[int], tree: HuffmanTree | None, rate: float
) -> list[tuple[int, float, float]]:
    """(row, label, rate x multiplicity) of what a centre word is scored against."""
    if tree is not None:
        return [
            (p, 1.0 - c, rate)
            for p, c in zip(tree.points(word).tolist(), tree.codes(word).tolist(), strict=True)
        ]
    noise: dict[int, int] = {}
    for n in negatives:
        if n != word:
            noise[n] = noise.get(n, 0) + 1
    return [(word, 1.0, rate), *((n, 0.0, rate * count) for n, count in noise.items())]


def _cut(outputs: list, size: int) -> list[list]:
    """`outputs` in pieces of `size`; 0 = in one."""
    size = size or max(len(outputs), 1)
    return [outputs[first : first + size] for first in range(0, len(outputs), size)]


def _blocks(outputs: list, most: int = TILE_OUTPUTS) -> Iterator[list]:
    tiles, first = -(-len(outputs) // most), 0
    for t in range(tiles):
        count = -(-(len(outputs) - first) // (tiles - t))
        yield outputs[first : first + count]
        first += count


def _products(rows: list[Tensor], weight: Tensor, block: list) -> tuple[Tensor, Tensor, float]:
    """The output rows, g (rows, outputs), and the loss times the learning rate."""
    outputs = weight[[o for o, _, _ in block]]
    logits = torch.stack(rows) @ outputs.T
    label = logits.new_tensor([y for _, y, _ in block])
    factor = logits.new_tensor([m for _, _, m in block])
    signed = torch.where(label > 0, logits, -logits)
    loss = -(factor * torch.nn.functional.logsigmoid(signed)).sum()
    return outputs, factor * (label - torch.sigmoid(logits)), float(loss)


def _train_tile(rows: _Rows, contexts: list[int], weight: Tensor, outputs: list) -> float:
    loss = 0.0
    blocks = list(_blocks(outputs))
    errors = [torch.zeros_like(rows[j]) for j in contexts]
    for block in blocks:
        block_rows, g, block_loss = _products([rows[j] for j in contexts], weight, block)
        loss += block_loss
        for c, j in enumerate(contexts):
            error = torch.zeros_like(errors[c])
            for o in range(len(block)):
                error += g[c, o] * block_rows[o]
                block_rows[o] += g[c, o] * rows[j]
            errors[c] += error
            if len(blocks) == 1:
                rows.add(j, error)
        for o, (row, _, _) in enumerate(block):
            weight[row] = block_rows[o]
    if len(blocks) > 1:
        for c, j in enumerate(contexts):
            rows.add(j, errors[c])
    return loss


def _train_mean(rows: _Rows, contexts: list[int], weight: Tensor, outputs: list) -> float:
    ids = [row for j in contexts for row in rows.ids(j)]
    hidden = rows.weight[ids].mean(0)
    error, loss = torch.zeros_like(hidden), 0.0
    for block in _blocks(outputs):
        block_rows, g, block_loss = _products([hidden], weight, block)
        loss += block_loss
        for o, (row, _, _) in enumerate(block):
            error += g[0, o] * block_rows[o]
            weight[row] += g[0, o] * hidden
    for row in ids:
        rows.weight[row] += error
    return loss


class Word2vecExact:
    """word2vec.c on one thread, in NumPy float32: its generator, tables, order and rounding."""

    def __init__(self, syn0, syn1, counts, *, cbow, window, negatives, sample, alpha, epochs, tree):
        self.syn0, self.syn1, self.counts = syn0, syn1, counts
        self.cbow, self.window, self.negatives, self.tree = cbow, window, negatives, tree
        self.sample, self.start = np.float32(sample), np.float32(alpha)
        self.train_words = int(counts.sum())
        self.words = np.float32(epochs * self.train_words + 1)
        i = np.arange(1000, dtype=np.float32) / np.float32(1000) * 2 - 1
        e = np.exp((i * 6).astype(np.float64)).astype(np.float32)
        self.sigmoid = e / (e + 1)
        self.random, self.pending, self.done, self.alpha = 0, 0, 0, self.start
        self.noise_ends = noise_ends(counts) if tree is None else None

    def draw(self) -> int:
        self.random = (self.random * 25214903917 + 11) % 2**64
        return self.random

    def epoch(self, tokens: np.ndarray) -> None:
        """Trains on int32 ids, 0 ending a sentence, and ends the epoch."""
        sentence: list[int] = []
        fresh = True
        for token in tokens.tolist():
            if fresh and self.pending > 10000:
                self.done += self.pending
                self.pending = 0
                falling = self.start * (1 - np.float32(self.done) / self.words)
                self.alpha = max(falling, np.float32(self.start * 0.0001))
            fresh = False
            self.pending += 1
            if token and self.keeps(token):
                sentence.append(token)
            if token == 0 or len(sentence) >= 1000:
                self.train(sentence)
                sentence, fresh = [], True
        self.done += self.pending
        self.pending = 0

    def keeps(self, token: int) -> bool:
        if self.sample <= 0:
            return True
        threshold = self.sample * np.float32(self.train_words)
        root = math.sqrt(np.float32(self.counts[token]) / threshold)
        chance = np.float32((root + 1) * float(threshold) / int(self.counts[token]))
        return bool(chance >= np.float32(self.draw() & 0xFFFF) / np.float32(65536))

    def train(self, sentence: list[int]) -> None:
        if not sentence:
            self.draw()
        for i, word in enumerate(sentence):
            reach = self.window - self.draw() % self.window
            near = range(max(0, i - reach), min(len(sentence), i + reach + 1))
            contexts = [sentence[j] for j in near if j != i]
            if self.cbow:
                if contexts:
                    hidden = np.zeros_like(self.syn0[0])
                    for c in contexts:
                        hidden += self.syn0[c]
                    hidden /= np.float32(len(contexts))
                    error = self.score(hidden, word)
                    for c in contexts:
                        self.syn0[c] += error
                continue
            for c in contexts:
                self.syn0[c] += self.score(self.syn0[c], word)

    def score(self, h: np.ndarray, word: int) -> np.ndarray:
        error = np.zeros_like(h)
        if self.tree is not None:
            pairs = zip(
                self.tree.points(word).tolist(), self.tree.codes(word).tolist(), strict=True
            )
            for node, code in pairs:
                self.update(h, node, 1 - code, error, saturates=False)
            return error
        for n in range(self.negatives + 1):
            target = word
            if n:
                random = self.draw()
                target = int(np.searchsorted(self.noise_ends[:-1], (random >> 16) % NOISE_TABLE))
                if target == 0:
                    target = random % (len(self.counts) - 1) + 1
                if target == word:
                    continue
            self.update(h, target, int(n == 0), error, saturates=True)
        return error

    def update(self, h, row, label, error, saturates) -> None:
        f = np.float32(0)
        for a, b in zip(h, self.syn1[row], strict=True):
            f += a * b
        if abs(f) > 6 or (abs(f) == 6 and not saturates):
            if not saturates:
                return
            g = np.float32(label - (f > 0)) * self.alpha
        else:
            g = (np.float32(label) - self.sigmoid[int((f + np.float32(6)) * 83)]) * self.alpha
        error += g * self.syn1[row]
        self.syn1[row] += g * h


NOISE_TABLE = 100_000_000


def noise_ends(counts: np.ndarray, power: float = 0.75) -> np.ndarray:
    """int64 (V,): the last cell of word2vec.c's table of 1e8 noise words that holds each word."""
    share = counts.astype(np.float64) ** power
    edge = np.cumsum(share / share.sum()) if len(counts) else share
    cell = np.floor(edge * NOISE_TABLE).astype(np.int64)
    cell += (cell / NOISE_TABLE) <= edge  # the first cell beyond the edge still holds the word
    return np.maximum.accumulate(cell - np.arange(len(cell))) + np.arange(len(cell))
