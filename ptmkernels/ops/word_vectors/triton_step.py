"""Skip-gram and CBOW in Triton (Mikolov et al. 2013): windows in parallel, both matrices in place.

A program trains a few windows, one after the other, since neighbours share their words; then as many further
on, until the text ends. The number of programs bounds what is trained at once (`in_flight`). The output rows
of a window stay in registers while its contexts pass, each of which sees the changes of those before it; then
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

from ptmkernels.ops.triton_runtime import launch, on_device
from ptmkernels.ops.word_vectors.reference import LOSS_EVERY, MAX_SENTENCE
from ptmkernels.ops.word_vectors.triton_rows import (
    TILE_OF_A_WARP,
    Matrix,
    Noise,
    low_word,
    matrix,
    resolve,
    scaled,
    sigmoid,
    softplus,
)

WINDOWS = 16  # that a program trains one after the other
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


class Model(NamedTuple):
    """What is trained, and what with."""

    inputs: Matrix  # (V, D), or any number of rows with sub-words
    output: Matrix  # (V, D) or (V - 1, D)
    noise: Noise
    tree: Lists
    subwords: Lists
    outputs: Any  # 1 + N


class Window(NamedTuple):
    """What a program knows of the window that it trains."""

    centre: Any  # its number among `Windows`
    first: Any
    last: Any
    word: Any  # int64
    place: Any
    rate: Any
    path: Any  # where its path begins
    outputs: Any  # how many
    number: Any  # of its first rounding


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
def _window(model, windows, i, first, last):
    word = tl.load(windows.word + i).to(tl.int64)
    place, path, outputs = tl.load(windows.place + i), word, model.outputs
    if model.tree.offsets is not None:
        path = tl.load(model.tree.offsets + word)
        outputs = (tl.load(model.tree.offsets + word + 1) - path).to(tl.int32)
    number = ((place & 0x7FFFFFFF) * 0x9E3779B9) & 0x7FFFFFFF
    return Window(i, first, last, word, place, tl.load(windows.rate + i), path, outputs, number)


@triton.jit
def _drawn(noise, window, o):
    """Ids, labels and multiplicities of the centre word (output 0) and its negatives.

    Negative n, which is output n + 1, has the words 2 + 2 n and 3 + 2 n of the place: two for each output.
    """
    call = (o >> 1).to(tl.uint32)
    low, high = low_word(window.place) + call * 0, low_word(window.place >> 32) + call * 0
    words = tl.philox(tl.load(noise.seed), low, high, call, call * 0)
    odd = (o & 1) == 1
    drawn = resolve(noise, tl.where(odd, words[2], words[0]), tl.where(odd, words[3], words[1]))
    id = tl.where(o == 0, window.word, drawn)
    used = (o == 0) | ((o < window.outputs) & (id != window.word))
    same = (id[:, None] == id[None, :]) & used[:, None] & used[None, :]
    earlier = same & (o[None, :] < o[:, None])
    times = tl.sum(same.to(tl.float32), 1)
    times = tl.where(tl.sum(earlier.to(tl.int32), 1) > 0, 0.0, times)
    return id, tl.where(o == 0, 1.0, 0.0), times


@triton.jit
def _nodes(tree, window, o):
    """The same of the nodes of a path."""
    inside = o < window.outputs
    entry = tl.load(tree.entries + window.path + o, mask=inside, other=0)
    label = tl.where((entry & 1) == 1, 0.0, 1.0)
    return (entry >> 1).to(tl.int64), label, tl.where(inside, 1.0, 0.0)


@triton.jit
def _outputs(model, window, start, BLOCK_O: tl.constexpr):
    o = start + tl.arange(0, BLOCK_O)
    if model.tree.offsets is not None:
        id, label, times = _nodes(model.tree, window, o)
    else:
        id, label, times = _drawn(model.noise, window, o)
    return id, label, times


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
def _load_outputs(output, id, times, BLOCK_D: tl.constexpr):
    d = tl.arange(0, BLOCK_D)[None, :]
    inside = (times > 0.0)[:, None] & (d < output.width)
    return _load(output.data + id[:, None] * output.stride + d, inside)


@triton.jit
def _add_to_outputs(
    output, id, times, change, number, BLOCK_O: tl.constexpr, BLOCK_D: tl.constexpr
):
    o, d = tl.arange(0, BLOCK_O)[:, None], tl.arange(0, BLOCK_D)[None, :]
    inside = (times > 0.0)[:, None] & (d < output.width)
    pointers = output.data + id[:, None] * output.stride + d
    _add(pointers, inside, change, number - (o + 1) * 65536 - d)


@triton.jit
def _input_sum(model, word, BLOCK_D: tl.constexpr):
    """(BLOCK_D,), the sum of the input rows of a word, and their number."""
    rows, subwords, d = model.inputs, model.subwords, tl.arange(0, BLOCK_D)
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
def _add_to_inputs(model, word, change, number, BLOCK_D: tl.constexpr):
    """Adds `change` (BLOCK_D,) to every input row of a word."""
    rows, subwords, d = model.inputs, model.subwords, tl.arange(0, BLOCK_D)
    inside = d < rows.width
    if subwords.offsets is None:
        _add(rows.data + word * rows.stride + d, inside, change, number + d)
    else:
        begin, end = tl.load(subwords.offsets + word), tl.load(subwords.offsets + word + 1)
        for s in range(begin, end):
            row = tl.load(subwords.entries + s).to(tl.int64)
            _add(rows.data + row * rows.stride + d, inside, change, number + d + s * 7919)


@triton.jit
def _factors(h, v, label, times, rate):
    """g = rate * times * (label - sigmoid(h.v)) of each output, and their loss (equation 4)."""
    x = tl.sum(v * h[None, :], 1)
    loss = tl.sum(times * softplus(tl.where(label > 0.0, -x, x)), 0)
    return rate * times * (label - sigmoid(x)), loss


@triton.jit
def _train_skipgram(model, windows, window, BLOCK_O: tl.constexpr, BLOCK_D: tl.constexpr):
    """Each context predicts the centre, after those before it; returns the loss."""
    total = 0.0
    for start in range(0, window.outputs, BLOCK_O):
        id, label, times = _outputs(model, window, start, BLOCK_O)
        before = _load_outputs(model.output, id, times, BLOCK_D)
        v = before
        for j in range(window.first, window.last + 1):
            if j != window.centre:
                word = tl.load(windows.word + j).to(tl.int64)
                row, count = _input_sum(model, word, BLOCK_D)
                h = row / count
                g, loss = _factors(h, v, label, times, window.rate)
                error = tl.sum(g[:, None] * v, 0)
                v += g[:, None] * h[None, :]
                total += loss
                number = window.number + (j - window.first + 1) * 65536 + start * 4096
                _add_to_inputs(model, word, error, number, BLOCK_D)
        number = window.number - start * 65536
        _add_to_outputs(model.output, id, times, v - before, number, BLOCK_O, BLOCK_D)
    return total


@triton.jit
def _train_cbow(model, windows, window, BLOCK_O: tl.constexpr, BLOCK_D: tl.constexpr):
    """The mean of the contexts predicts the centre; its change goes to each of them. Returns the loss."""
    total, count = 0.0, 0.0
    h, error = tl.zeros([BLOCK_D], tl.float32), tl.zeros([BLOCK_D], tl.float32)
    for j in range(window.first, window.last + 1):
        if j != window.centre:
            row, n = _input_sum(model, tl.load(windows.word + j).to(tl.int64), BLOCK_D)
            h += row
            count += n
    h = h / count
    for start in range(0, window.outputs, BLOCK_O):
        id, label, times = _outputs(model, window, start, BLOCK_O)
        v = _load_outputs(model.output, id, times, BLOCK_D)
        g, loss = _factors(h, v, label, times, window.rate)
        error += tl.sum(g[:, None] * v, 0)
        total += loss
        number, change = window.number - start * 65536, g[:, None] * h[None, :]
        _add_to_outputs(model.output, id, times, change, number, BLOCK_O, BLOCK_D)
    for j in range(window.first, window.last + 1):
        if j != window.centre:
            word = tl.load(windows.word + j).to(tl.int64)
            number = window.number + (j - window.first + 1) * 65536
            _add_to_inputs(model, word, error, number, BLOCK_D)
    return total


@triton.jit
def _train(
    model: Model,
    windows: Windows,
    count,  # of windows
    run,  # windows that a program trains one after the other
    CBOW: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    for begin in range(tl.program_id(0) * run, count, tl.num_programs(0) * run):
        for i in range(begin, tl.minimum(begin + run, count)):
            first, last = tl.load(windows.first + i), tl.load(windows.last + i)
            if last > first:
                window = _window(model, windows, i, first, last)
                if CBOW:
                    loss = _train_cbow(model, windows, window, BLOCK_O, BLOCK_D)
                else:
                    loss = _train_skipgram(model, windows, window, BLOCK_O, BLOCK_D)
                if window.place % _SAMPLED == 0:
                    tl.store(windows.loss + i, loss)


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
    workers: int,
) -> Tensor:
    """The op `triton_word_vectors_step_` (schema in `triton_ops`); max_subwords is the CPU's."""
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
            matrices = (matrix(input_weight), matrix(output_weight))
            arguments = (Model(*matrices, noise, *lists, outputs), windows, count, WINDOWS)
            grid = (min(triton.cdiv(count, WINDOWS), workers),)
            launch(_train, grid, arguments, {"CBOW": cbow, **blocks}, warps)
    return _statistics(windows, cbow)
