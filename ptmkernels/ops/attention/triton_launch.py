"""Host side of the Triton backend: from torch tensors to kernel launches."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import triton
from torch import Tensor

from ptmkernels.ops import triton_tune
from ptmkernels.ops.attention import triton_backward, triton_bias, triton_decode, triton_kernels
from ptmkernels.ops.attention.autograd import wanted_places
from ptmkernels.ops.attention.options import DIFFERENTIABLE, AttentionOptions, takes_tf32
from ptmkernels.ops.attention.triton_config import CANDIDATES, tile_for
from ptmkernels.ops.attention.triton_tile import Bias, Dropout, Mask, Rows, Sizes, Terms
from ptmkernels.ops.triton_runtime import launch, multiprocessors
from ptmkernels.ops.triton_tune import Tile

LOG2_E = 1.4426950408889634
DECODE_QUERIES = 16  # up to so many queries the keys are split instead of the queries
DECODE_ROWS = 64  # queries x heads that share a key head, at most, in one program
MAX_ROW_STRIDE = 2**23  # a tile's offsets are 32-bit: up to 256 rows of this stride


def attention_forward(query: Tensor, key: Tensor, value: Tensor, *options) -> tuple[Tensor, Tensor]:
    """The op `triton_attention_forward` (schema in `triton_ops`)."""
    call = _Call.of(query, key, value, AttentionOptions(*options))
    output = torch.empty_like(query, memory_format=torch.contiguous_format)
    lse = query.new_empty(query.shape[:3], dtype=torch.float32)
    if call.empty:
        return output.zero_(), lse.fill_(-torch.inf)
    with call.device():
        if call.few_queries:
            call.run("decode", partial(_decode, call, output, lse))
        else:
            call.run("forward", partial(_forward, call, output, lse))
    return output, lse


def attention_backward(
    grad_output: Tensor,
    grad_lse: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    lse: Tensor,
    *rest,
) -> tuple[Tensor, ...]:
    """The op `triton_attention_backward` (schema in `triton_ops`)."""
    *options, wanted = rest
    options = AttentionOptions(*options)
    names = [DIFFERENTIABLE[n] for n in wanted_places(wanted)]
    call = _Call.of(query, key, value, options)
    contiguous = {"memory_format": torch.contiguous_format}
    grads = [torch.empty_like(t, **contiguous) for t in (query, key, value)]
    of_options = {name: query.new_empty(0) for name in DIFFERENTIABLE}
    if call.empty:
        for grad in grads:
            grad.zero_()
        of_options |= {n: torch.zeros_like(getattr(options, n), **contiguous) for n in names}
        return *grads, *of_options.values()
    with call.device():
        backward = _Backward(call, _rows_tensor(grad_output), output, lse, grad_lse)
        *grads, of_options["bias"] = backward.run(grads, "bias" in names)
        if "bias_table" in names:
            of_options["bias_table"] = backward.table_gradient()
    return *grads, *of_options.values()


@dataclass
class _Call:
    """The arguments of one call as the kernels take them."""

    query: Tensor
    key: Tensor
    value: Tensor
    given: AttentionOptions
    terms: Terms
    sizes: Sizes
    negated: bool

    @staticmethod
    def of(query: Tensor, key: Tensor, value: Tensor, given: AttentionOptions) -> _Call:
        # The softmax takes the maximum before it scales, so the scale is kept positive.
        negated = given.scale < 0
        query, key, value = (_rows_tensor(t) for t in (-query if negated else query, key, value))
        sizes = Sizes(query.shape[1], query.shape[2], key.shape[2])
        bias = _bias(given, query)
        scale = abs(given.scale)
        # Without a bias the score is the bare product; a scale of 0 must not meet -inf.
        exponent = LOG2_E * (max(scale, 1e-37) if bias.data is None else 1.0)
        dropout = Dropout(None, None, None)
        if given.dropout_p > 0.0:
            threshold = math.floor(given.dropout_p * 2**32)
            dropout = Dropout(given.seed, threshold, 1.0 / (1.0 - given.dropout_p))
        terms = Terms(_mask(given), bias, dropout, scale, exponent)
        return _Call(query, key, value, given, terms, sizes, negated)

    @property
    def empty(self) -> bool:
        return 0 in (*self.query.shape, *self.key.shape)

    @property
    def group(self) -> int:
        return self.query.shape[1] // self.key.shape[1]

    @property
    def few_queries(self) -> bool:
        length = self.sizes.query_len
        return length <= DECODE_QUERIES and length * self.group <= DECODE_ROWS

    @property
    def precision(self) -> str:
        """How float32 products are taken: torch's own setting of float32 matrix products."""
        return "tf32" if takes_tf32(self.query) else "ieee"

    @property
    def block_d(self) -> int:
        return max(16, triton.next_power_of_2(self.query.shape[3]))

    def device(self):
        """Triton launches on the current device; the op runs on that of its tensors."""
        return (
            torch.cuda.device(self.query.device) if self.query.is_cuda else contextlib.nullcontext()
        )

    def run(self, kernel: str, work: Callable[[Tile], None]) -> None:
        """`work` with a kernel's tile: that of the table or, where tuning is on, the fastest."""
        tile = tile_for(kernel, self.block_d, self.number_type, self.extras)
        if triton_tune.enabled() and self.query.is_cuda:
            tile = triton_tune.tuner().best(self.tuning_key(kernel), CANDIDATES[kernel], work)
        work(tile)

    def tuning_key(self, kernel: str) -> str:
        """What the choice of a tile may depend on, lengths rounded up to powers of two."""
        terms, mask = self.terms, self.terms.mask
        parts = {
            "rank": mask.rank,
            "tree": mask.tree,
            "dense": mask.allowed,
            "bias": terms.bias.data,
            "dropout": terms.dropout.seed,
        }
        options = "+".join(name for name, part in parts.items() if part is not None) or "plain"
        lengths = [triton.next_power_of_2(n) for n in self.sizes[1:]]
        device = torch.cuda.get_device_name(self.query.device)
        return (
            f"{device} {kernel} D{self.block_d} {self.number_type} L{lengths[0]} S{lengths[1]} "
            f"group {self.group} {options}"
        )

    @property
    def number_type(self) -> str:
        return self.precision if self.query.dtype == torch.float32 else "half"

    @property
    def extras(self) -> int:
        """How many of the terms that cost registers the call has."""
        terms, mask = self.terms, self.terms.mask
        parts = (terms.dropout.seed, terms.bias.data, mask.tree, mask.allowed)
        return sum(part is not None for part in parts)

    def constants(self) -> dict:
        """Compile-time arguments that every kernel has."""
        return {
            "GROUP": self.group,
            "HEAD_DIM": self.query.shape[3],
            "BLOCK_D": self.block_d,
            "PRECISION": self.precision,
        }

    def never_full(self) -> bool:
        mask = self.terms.mask
        return mask.tree is not None or mask.allowed is not None

    def ranges(self, tile: Tile, of_keys: bool = False) -> tuple[Tensor | None, int]:
        """The tiles to visit for each query tile (key tile), and their stride over the batch."""
        mask = self.terms.mask
        if mask.rank is None:
            return None, 0
        block, other = (tile.n, tile.m) if of_keys else (tile.m, tile.n)
        length, other_length = self.sizes.query_len, self.sizes.key_len
        if of_keys:
            length, other_length = other_length, length
        tiles, others = triton.cdiv(length, block), triton.cdiv(other_length, other)
        batch = max(
            t.shape[0] for t in (self.given.key_rank, self.given.query_low, self.given.query_high)
        )
        ranges = torch.empty((batch, tiles, 4), dtype=torch.int32, device=self.query.device)
        launch(
            triton_kernels._tile_ranges,
            (tiles, batch),
            (ranges, mask, self.sizes, tiles, others),
            {
                "BLOCK": block,
                "BLOCK_OTHER": other,
                "CHUNK": max(1, 1024 // other),
                "OF_KEYS": of_keys,
                "NEVER_FULL": self.never_full(),
            },
            warps=4,
        )
        return ranges, (tiles * 4 if batch > 1 else 0)

    def tile_classes(self, length: int, block: int) -> dict:
        """Whether every tile is full, or none can be: the code of the other kind is left out."""
        return {
            "ALL_FULL": self.terms.mask.rank is None and length % block == 0,
            "NEVER_FULL": self.never_full(),
        }


def _rows_tensor(tensor: Tensor) -> Tensor:
    """`tensor` with a last stride of 1 and rows near enough for 32-bit offsets in a tile."""
    fits = tensor.stride(-1) == 1 and abs(tensor.stride(-2)) < MAX_ROW_STRIDE
    return tensor if fits else tensor.contiguous()


def _rows(tensor: Tensor) -> Rows:
    return Rows(tensor, *tensor.stride()[:3])


def _broadcast_strides(tensor: Tensor) -> tuple[int, ...]:
    """Strides with 0 for dimensions of size 1, which are read for every index."""
    return tuple(
        0 if size == 1 else stride
        for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )


def _mask(given: AttentionOptions) -> Mask:
    vectors = (given.key_rank, given.query_low, given.query_high)
    batches = [None if t is None else _broadcast_strides(t)[0] for t in vectors]
    tree, allowed = given.tree, given.allowed
    return Mask(
        *vectors,
        *batches,
        tree,
        None if tree is None else _broadcast_strides(tree)[0],
        allowed,
        *((None,) * 4 if allowed is None else _broadcast_strides(allowed)),
    )


def _bias(given: AttentionOptions, query: Tensor) -> Bias:
    if given.bias is not None and given.bias_table is not None:
        raise ValueError("bias and bias_table are both given; expected at most one of them")
    if given.bias is not None:
        return Bias(given.bias, *_broadcast_strides(given.bias))
    if given.bias_table is None:
        return Bias(None, None, None, None, None)
    # One value for each head and distance; a tile reads them along its diagonals.
    values = given.bias_table.float()[given.bias_bucket].t().contiguous()
    return Bias(values[:, query.shape[2] - 1 :], 0, values.stride(0), -1, 1)


def _forward(call: _Call, output: Tensor, lse: Tensor, tile: Tile) -> None:
    ranges, ranges_batch = call.ranges(tile)
    batch, heads, length, _ = call.query.shape
    launch(
        triton_kernels._forward,
        (triton.cdiv(length, tile.m) * heads * batch,),
        (
            *(_rows(t) for t in (call.query, call.key, call.value, output)),
            *(lse, ranges, ranges_batch, call.terms, call.sizes),
        ),
        {
            "BLOCK_M": tile.m,
            "BLOCK_N": tile.n,
            **call.constants(),
            **call.tile_classes(call.sizes.key_len, tile.n),
        },
        warps=tile.warps,
        stages=tile.stages,
    )


def _decode(call: _Call, output: Tensor, lse: Tensor, tile: Tile) -> None:
    batch, heads, length, head_dim = call.query.shape
    spans, span_len = _spans(call, tile.n)
    parts, part_lse = output, lse
    if spans > 1:
        parts = output.new_empty((batch, heads, length, spans, head_dim), dtype=torch.float32)
        part_lse = lse.new_empty((batch, heads, length, spans))
    launch(
        triton_decode._decode,
        (spans * call.key.shape[1] * batch,),
        (
            *(_rows(t) for t in (call.query, call.key, call.value)),
            *(_rows(parts), Rows(part_lse, *part_lse.stride()[:3])),
            *(head_dim, 1),
            *(call.terms, call.sizes, spans, span_len),
        ),
        {
            "BLOCK_ROWS": max(16, triton.next_power_of_2(length * call.group)),
            "BLOCK_N": tile.n,
            "CHUNK": max(1024, tile.n),
            **call.constants(),
        },
        warps=tile.warps,
        stages=tile.stages,
    )
    if spans > 1:
        launch(
            triton_decode._combine,
            (batch * heads * length,),
            (parts, part_lse, output, lse, spans),
            {
                "HEAD_DIM": head_dim,
                "BLOCK_SPANS": triton.next_power_of_2(spans),
                "BLOCK_D": call.block_d,
            },
            warps=4,
        )


def _spans(call: _Call, block_n: int) -> tuple[int, int]:
    """(number of spans, keys in each): programs for every multiprocessor twice over."""
    key_len = call.sizes.key_len
    tiles = triton.cdiv(key_len, block_n)
    others = call.key.shape[0] * call.key.shape[1]
    wanted = triton.cdiv(2 * multiprocessors(call.query.device), others)
    tiles_each = triton.cdiv(tiles, max(1, min(wanted, 128)))
    return triton.cdiv(tiles, tiles_each), tiles_each * block_n


class _Backward:
    """One backward call: dq first, which leaves the row terms that the other kernels read."""

    def __init__(
        self, call: _Call, grad_output: Tensor, output: Tensor, lse: Tensor, grad_lse: Tensor | None
    ) -> None:
        self.call = call
        self.grad_output = grad_output
        self.output = _rows_tensor(output)
        self.lse = lse.contiguous()
        self.grad_lse = None if grad_lse is None else grad_lse.contiguous()
        self.row_terms = lse.new_empty((2, *lse.shape))

    def run(self, grads: list[Tensor], bias_wanted: bool) -> tuple[Tensor, ...]:
        """Fills the gradients of query, key and value, and adds that of the bias."""
        bias = self.call.given.bias
        grad_bias = key_sums = None
        if bias_wanted:
            batch, heads, length, _ = self.call.query.shape
            key_len = self.call.sizes.key_len
            if tuple(bias.shape) == (batch, heads, length, key_len):
                grad_bias = torch.zeros_like(bias, memory_format=torch.contiguous_format)
            elif bias.shape[2] == 1 and bias.shape[3] == key_len:
                key_sums = self.lse.new_empty((batch, heads, key_len))
        self.call.run("backward_query", partial(self._query, grads[0], grad_bias))
        self.call.run("backward_key", partial(self._key, *grads[1:], key_sums))
        if self.call.negated:
            grads[0].neg_()
        if not bias_wanted:
            return *grads, grads[0].new_empty(0)
        if grad_bias is None:
            grad_bias = self._shared_bias_gradient(bias, key_sums)
        return *grads, grad_bias

    def _inputs(self) -> tuple[Rows, ...]:
        call = self.call
        return tuple(_rows(t) for t in (call.query, call.key, call.value))

    def _query(self, grad_query: Tensor, grad_bias: Tensor | None, tile: Tile) -> None:
        call = self.call
        ranges, ranges_batch = call.ranges(tile)
        batch, heads, length, _ = call.query.shape
        launch(
            triton_backward._backward_query,
            (triton.cdiv(length, tile.m) * heads * batch,),
            (
                *self._inputs(),
                *(_rows(t) for t in (self.output, self.grad_output, grad_query)),
                *(self.lse, self.grad_lse, self.row_terms, grad_bias, ranges, ranges_batch),
                *(call.terms, call.sizes, self.lse.numel()),
            ),
            {
                "BLOCK_M": tile.m,
                "BLOCK_N": tile.n,
                **call.constants(),
                **call.tile_classes(call.sizes.key_len, tile.n),
            },
            warps=tile.warps,
            stages=tile.stages,
        )

    def _key(
        self, grad_key: Tensor, grad_value: Tensor, key_sums: Tensor | None, tile: Tile
    ) -> None:
        call = self.call
        ranges, ranges_batch = call.ranges(tile, of_keys=True)
        batch, key_heads, key_len, _ = call.key.shape
        launch(
            triton_backward._backward_key,
            (triton.cdiv(key_len, tile.n) * key_heads * batch,),
            (
                *self._inputs(),
                *(_rows(t) for t in (self.grad_output, grad_key, grad_value)),
                *(self.row_terms, key_sums, ranges, ranges_batch),
                *(call.terms, call.sizes, self.lse.numel()),
            ),
            {
                "BLOCK_M": tile.m,
                "BLOCK_N": tile.n,
                **call.constants(),
                **call.tile_classes(call.sizes.query_len, tile.m),
            },
            warps=tile.warps,
            stages=tile.stages,
        )

    def _shared_bias_gradient(self, bias: Tensor, key_sums: Tensor | None) -> Tensor:
        """The gradient of a bias that several scores share."""
        if key_sums is not None:
            return key_sums[:, :, None].sum_to_size(bias.shape).to(bias.dtype)
        if bias.shape[3] == 1:
            return self._row_bias_gradient(bias)
        grad = torch.empty_like(bias, memory_format=torch.contiguous_format)
        batch, heads, _, _ = self.call.query.shape
        shared = (batch // bias.shape[0], heads // bias.shape[1])
        self.call.run("bias", partial(self._bias_kernel, grad, *shared, False))
        return grad

    def _row_bias_gradient(self, bias: Tensor) -> Tensor:
        """A softmax does not feel what its whole row shares: only the log-sum-exp passes a gradient."""
        if self.grad_lse is None:
            return torch.zeros_like(bias, memory_format=torch.contiguous_format)
        seen = torch.where(self.lse == -torch.inf, 0.0, self.grad_lse)
        return seen[..., None].sum_to_size(bias.shape).to(bias.dtype)

    def table_gradient(self) -> Tensor:
        """The gradient of a bucketed bias: sums by distance, then by bucket."""
        table = self.call.given.bias_table
        grad = torch.empty_like(table, memory_format=torch.contiguous_format)
        self.call.run("bias", partial(self._table_kernels, grad))
        return grad

    def _table_kernels(self, grad: Tensor, tile: Tile) -> None:
        call = self.call
        heads, length, key_len = call.sizes
        diagonals = triton.cdiv(length, tile.m) + triton.cdiv(key_len, tile.m) - 1
        sums = self.lse.new_empty((heads, diagonals, 2, tile.m))
        self._bias_kernel(sums, call.query.shape[0], 1, True, tile)
        launch(
            triton_bias._bucket_sums,
            (grad.numel(),),
            (sums, call.given.bias_bucket, grad, heads, length, key_len),
            {"BLOCK": tile.m},
            warps=4,
        )

    def _bias_kernel(
        self, target: Tensor, summed_batch: int, summed_heads: int, by_distance: bool, tile: Tile
    ) -> None:
        call = self.call
        ranges, ranges_batch = call.ranges(tile)
        heads, length, key_len = call.sizes
        rows, columns = triton.cdiv(length, tile.m), triton.cdiv(key_len, tile.n)
        own_tiles = rows + columns - 1 if by_distance else rows * columns
        kept = call.query.shape[0] // summed_batch * (heads // summed_heads)
        launch(
            triton_bias._bias_gradient,
            (own_tiles * kept,),
            (
                *self._inputs(),
                *(_rows(self.grad_output), self.row_terms, target, ranges, ranges_batch),
                *(call.terms, call.sizes, self.lse.numel(), summed_batch, summed_heads),
            ),
            {
                "BLOCK_M": tile.m,
                "BLOCK_N": tile.n,
                "BY_DISTANCE": by_distance,
                **call.constants(),
            },
            warps=tile.warps,
            stages=tile.stages,
        )
