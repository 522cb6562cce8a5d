"""Skip-gram and CBOW in Triton (Mikolov et al. 2013): windows in parallel, both matrices in place.

A program trains a few windows, one after the other, since neighbours share their words. The output rows of
a window stay in registers while its contexts pass, each of which sees the changes of those before it; then
the sum of the changes is added to memory. Programs run at the same time and do not wait for each other
(Recht et al. 2011, "Hogwild!"): float32 rows change by atomic additions, so that no change is lost, bfloat16
rows are read, changed and written. Loads bypass the first-level cache, which would not see the changes.
docs/word_vectors.md tells how the order differs from the CPU's.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ptmkernels.ops.triton_runtime import launch
from ptmkernels.ops.word_vectors.reference import LOSS_EVERY, MAX_SENTENCE
from ptmkernels.ops.word_vectors.triton_rows import (
    TILE_OF_A_WARP,
    Matrix,
    Noise,
    low_word,
    matrix,
    on_device,
    resolve,
    scaled,
    sigmoid,
    softplus,
)

WINDOWS = 16  # of a program
MAX_TILE = 8192  # elements of the output rows that a program holds
_SAMPLED = tl.constexpr(LOSS_EVERY)


class Windows(NamedTuple):
    """Of each word that stays, (count,)."""

    word: Any  # int32
    place: Any  # int64, in the training stream
    first: Any  # int32, of the words within its reach
    last: Any
    rate: Any  # float32
    loss: Any  # float32, of the windows that are sampled


class Lists(NamedTuple):
    """entries[offsets[word] : offsets[word + 1]] of each word; both None where there are none."""

    offsets: Any  # int64 (V + 1,)
    entries: Any  # int32


@triton.jit
def _draw_reach(reach, tokens, keep, seed, position, count, window, BLOCK: tl.constexpr):
    """reach (count,) int32: words to either side, 0 for tokens that do not stay (reference.draws)."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < count
    word = tl.load(tokens + i, mask=inside, other=-1)
    low, high = low_word(position + i), low_word((position + i) >> 32)
    words = tl.philox(tl.load(seed), low, high, low * 0, low * 0)
    stays = word >= 0
    if keep is not None:
        threshold = tl.load(keep + word, mask=stays, other=0).to(tl.uint32, bitcast=True)
        stays = stays & (words[0] < threshold)
    tl.store(reach + i, tl.where(stays, 1 + scaled(words[1], window), 0).to(tl.int32), mask=inside)


@triton.jit
def _drawn(noise, word, place, first, outputs, BLOCK_O: tl.constexpr):
    """Ids, labels and multiplicities of the centre word and its negatives (output 0 and n + 1).

    Negative n has words 2 + 2 n and 3 + 2 n of the place, which are those of output n + 1 two by two.
    """
    o = first + tl.arange(0, BLOCK_O)
    call = (o >> 1).to(tl.uint32)
    low, high = low_word(place) + call * 0, low_word(place >> 32) + call * 0
    words = tl.philox(tl.load(noise.seed), low, high, call, call * 0)
    odd = (o & 1) == 1
    drawn = resolve(noise, tl.where(odd, words[2], words[0]), tl.where(odd, words[3], words[1]))
    id = tl.where(o == 0, word, drawn)
    used = (o == 0) | ((o < outputs) & (id != word))
    same = (id[:, None] == id[None, :]) & used[:, None] & used[None, :]
    earlier = same & (o[None, :] < o[:, None])
    times = tl.sum(same.to(tl.float32), 1)
    times = tl.where(tl.sum(earlier.to(tl.int32), 1) > 0, 0.0, times)
    return id, tl.where(o == 0, 1.0, 0.0), times


@triton.jit
def _nodes(tree, begin, length, first, BLOCK_O: tl.constexpr):
    """The same of the nodes of a path."""
    o = first + tl.arange(0, BLOCK_O)
    entry = tl.load(tree.entries + begin + o, mask=o < length, other=0)
    label = tl.where((entry & 1) == 1, 0.0, 1.0)
    return (entry >> 1).to(tl.int64), label, tl.where(o < length, 1.0, 0.0)


@triton.jit
def _load(pointers, inside):
    return tl.load(pointers, mask=inside, other=0.0, cache_modifier=".cg").to(tl.float32)


@triton.jit
def _add(pointers, inside, change, number):
    """Adds to rows in memory; bfloat16 is rounded at random, by a hash of `number` (MurmurHash3's)."""
    if pointers.dtype.element_ty == tl.bfloat16:
        x = number.to(tl.uint32)
        x = (x ^ (x >> 16)) * 0x85EBCA6B
        x = (x ^ (x >> 13)) * 0xC2B2AE35
        bits = (_load(pointers, inside) + change).to(tl.uint32, bitcast=True) + (x >> 16)
        rounded = (bits >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)
        tl.store(pointers, rounded, mask=inside)
    else:
        tl.atomic_add(pointers, change, mask=inside, sem="relaxed")


@triton.jit
def _input_sum(rows, subwords, word, BLOCK_D: tl.constexpr):
    """(BLOCK_D,), the sum of the input rows of a word, and their number."""
    d = tl.arange(0, BLOCK_D)
    inside = d < rows.width
    if subwords.offsets is None:
        total, count = _load(rows.data + word * rows.stride + d, inside), 1.0
    else:
        begin, end = tl.load(subwords.offsets + word), tl.load(subwords.offsets + word + 1)
        total, count = tl.zeros([BLOCK_D], tl.float32), (end - begin).to(tl.float32)
        for s in range(begin, end):
            row = tl.load(subwords.entries + s).to(tl.int64)
            total += _load(rows.data + row * rows.stride + d, inside)
    return total, count


@triton.jit
def _add_to_inputs(rows, subwords, word, change, number, BLOCK_D: tl.constexpr):
    """Adds `change` (BLOCK_D,) to every input row of a word."""
    d = tl.arange(0, BLOCK_D)
    inside = d < rows.width
    if subwords.offsets is None:
        _add(rows.data + word * rows.stride + d, inside, change, number + d)
    else:
        begin, end = tl.load(subwords.offsets + word), tl.load(subwords.offsets + word + 1)
        for s in range(begin, end):
            row = tl.load(subwords.entries + s).to(tl.int64)
            pointers = rows.data + row * rows.stride + d
            _add(pointers, inside, change, number + d + s * 7919)


@triton.jit
def _factors(h, v, label, times, rate):
    """g = rate * times * (label - sigmoid(h.v)) of each output, and their loss (equation 4)."""
    x = tl.sum(v * h[None, :], 1)
    loss = tl.sum(times * softplus(tl.where(label > 0.0, -x, x)), 0)
    return rate * times * (label - sigmoid(x)), loss


@triton.jit
def _train_window(
    i,
    first,
    last,
    inputs,
    output,
    windows,
    noise,
    tree,
    subwords,
    outputs,
    CBOW: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    word = tl.load(windows.word + i).to(tl.int64)
    place = tl.load(windows.place + i)
    rate = tl.load(windows.rate + i)
    begin = word  # of the path
    if tree.offsets is not None:
        begin = tl.load(tree.offsets + word)
        outputs = (tl.load(tree.offsets + word + 1) - begin).to(tl.int32)
    d = tl.arange(0, BLOCK_D)[None, :]
    number = ((place & 0x7FFFFFFF) * 0x9E3779B9) & 0x7FFFFFFF  # each rounding has its own
    total = 0.0
    hidden, error = tl.zeros([BLOCK_D], tl.float32), tl.zeros([BLOCK_D], tl.float32)
    if CBOW:
        count = 0.0
        for j in range(first, last + 1):
            if j != i:
                neighbour = tl.load(windows.word + j).to(tl.int64)
                row, n = _input_sum(inputs, subwords, neighbour, BLOCK_D)
                hidden += row
                count += n
        hidden = hidden / count
    for start in range(0, outputs, BLOCK_O):
        if tree.offsets is not None:
            id, label, times = _nodes(tree, begin, outputs, start, BLOCK_O)
        else:
            id, label, times = _drawn(noise, word, place, start, outputs, BLOCK_O)
        pointers = output.data + id[:, None] * output.stride + d
        inside = (times > 0.0)[:, None] & (d < output.width)
        before = _load(pointers, inside)
        v = before
        if CBOW:
            g, loss = _factors(hidden, v, label, times, rate)
            error += tl.sum(g[:, None] * v, 0)
            v += g[:, None] * hidden[None, :]
            total += loss
        else:
            for j in range(first, last + 1):
                if j != i:
                    neighbour = tl.load(windows.word + j).to(tl.int64)
                    row, n = _input_sum(inputs, subwords, neighbour, BLOCK_D)
                    h = row / n
                    g, loss = _factors(h, v, label, times, rate)
                    total += loss
                    e = tl.sum(g[:, None] * v, 0)
                    v += g[:, None] * h[None, :]
                    at = number + (j - first + 1) * 65536 + start * 4096
                    _add_to_inputs(inputs, subwords, neighbour, e, at, BLOCK_D)
        o = (start + tl.arange(0, BLOCK_O))[:, None]
        _add(pointers, inside, v - before, number - (o + 1) * 65536 - d)
    if CBOW:
        for j in range(first, last + 1):
            if j != i:
                neighbour = tl.load(windows.word + j).to(tl.int64)
                at = number + (j - first + 1) * 65536
                _add_to_inputs(inputs, subwords, neighbour, error, at, BLOCK_D)
    if place % _SAMPLED == 0:
        tl.store(windows.loss + i, total)


@triton.jit
def _train(
    inputs: Matrix,  # (V, D), or any number of rows with sub-words
    output: Matrix,  # (V, D) or (V - 1, D)
    windows: Windows,
    noise: Noise,
    tree: Lists,
    subwords: Lists,
    count,
    outputs,  # 1 + N
    run,  # windows of a program
    CBOW: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    begin = tl.program_id(0) * run
    for i in range(begin, tl.minimum(begin + run, count)):
        first, last = tl.load(windows.first + i), tl.load(windows.last + i)
        if last > first:
            _train_window(
                i, first, last, inputs, output, windows, noise, tree, subwords, outputs,
                CBOW, BLOCK_O, BLOCK_D,
            )  # fmt: skip


def _find_windows(
    tokens: Tensor, reach: Tensor, position: int, total: int, rate: float, floor: float
) -> Windows:
    """What the kernel reads of each word that stays, from the reach of each token (0: it does not)."""
    index = torch.arange(len(tokens), device=tokens.device)
    after_end = torch.where(tokens < 0, index + 1, 0).cummax(0).values
    sentence = index - (index - after_end) % MAX_SENTENCE  # where the token's sentence begins
    kept = torch.nonzero(reach)[:, 0]
    reach, sentence, own = reach[kept], sentence[kept], index[: len(kept)]
    first = torch.searchsorted(sentence, sentence)
    last = torch.searchsorted(sentence, sentence, right=True) - 1
    left = 1.0 - (position + kept[first]).double() / (total + 1)
    return Windows(
        word=tokens[kept],
        place=position + kept,
        first=torch.maximum(first, own - reach).int(),
        last=torch.minimum(last, own + reach).int(),
        rate=(left.float() * rate).clamp(min=floor),
        loss=torch.zeros(len(kept), device=tokens.device),
    )


def _statistics(windows: Windows, cbow: bool) -> Tensor:
    """loss, loss pairs, pairs, words (word_vectors.StepStatistics), float64."""
    contexts = windows.last - windows.first
    sampled = contexts[windows.place % LOSS_EVERY == 0]
    loss_pairs = (sampled > 0).sum() if cbow else sampled.sum()
    words = torch.full_like(loss_pairs, len(contexts))
    sums = (windows.loss.double().sum(), loss_pairs, contexts.sum(), words)
    return torch.stack([value.double() for value in sums])


def blocks_of(outputs: int, width: int) -> dict[str, int]:
    """How many outputs of `width` columns a program trains at once, and the columns as it sees them."""
    block_d = max(16, triton.next_power_of_2(width))
    most = max(1, MAX_TILE // block_d)
    return {"BLOCK_O": min(most, triton.next_power_of_2(max(outputs, 1))), "BLOCK_D": block_d}


def word_vectors_step_(
    input_weight: Tensor,
    output_weight: Tensor,
    tokens: Tensor,
    keep: Tensor | None,
    alias: Tensor | None,
    tree_offsets: Tensor | None,
    tree_path: Tensor | None,
    subword_offsets: Tensor | None,
    subwords: Tensor | None,
    max_subwords: int,
    cbow: bool,
    window: int,
    negatives: int,
    learning_rate: float,
    min_learning_rate: float,
    position: int,
    total: int,
    seed: Tensor,
    threads: int,
) -> Tensor:
    """The op `triton_word_vectors_step_` (schema in `triton_ops`); threads and max_subwords are the CPU's."""
    reach = torch.empty_like(tokens)
    with on_device(tokens):
        if len(tokens):
            grid, block = (triton.cdiv(len(tokens), 1024),), {"BLOCK": 1024}
            arguments = (reach, tokens, keep, seed, position, len(tokens), window)
            launch(_draw_reach, grid, arguments, block, warps=4)
        windows = _find_windows(tokens, reach, position, total, learning_rate, min_learning_rate)
        count = len(windows.word)
        outputs = 1 + negatives
        if tree_offsets is not None:
            outputs = int((tree_offsets[1:] - tree_offsets[:-1]).max())
        blocks = blocks_of(outputs, input_weight.shape[1])
        warps = min(8, max(1, blocks["BLOCK_O"] * blocks["BLOCK_D"] // TILE_OF_A_WARP))
        if count:
            noise = Noise(None, alias, seed, len(alias) if alias is not None else 0)
            lists = (Lists(tree_offsets, tree_path), Lists(subword_offsets, subwords))
            arguments = (matrix(input_weight), matrix(output_weight), windows, noise, *lists)
            constants = {"CBOW": cbow, **blocks}
            grid = (triton.cdiv(count, WINDOWS),)
            launch(_train, grid, (*arguments, count, outputs, WINDOWS), constants, warps)
    return _statistics(windows, cbow)
