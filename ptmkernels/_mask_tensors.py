"""The integer tensors of the attention masks: checks, positions, trees."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor

PADDED = torch.iinfo(torch.int32).max  # the rank of a padded key: no high may reach it
LOWEST = torch.iinfo(torch.int32).min


def readable(*tensors: Tensor) -> bool:
    """True where values can be looked at without waiting: on the CPU, and not while a graph is traced.

    What cannot be read is clamped instead (:func:`within`) or left to an assertion on the device, so that no
    mask makes the CPU wait for a GPU.
    """
    return not _traced(*tensors) and all(t.is_cpu for t in tensors)


def concrete(*tensors: Tensor) -> bool:
    """True where there are values at all, for the few who would wait for them.

    False for fake and meta tensors, while a graph is traced or captured, and under vmap.
    """
    if _traced(*tensors) or any(t.is_meta for t in tensors):
        return False
    return not (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing())


def _traced(*tensors: Tensor) -> bool:
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return True
    return any(type(t) is not Tensor for t in tensors)


def within(name: str, value: Tensor, least: int, most: int, why: str = "") -> Tensor:
    """`value`, whose numbers are `least` to `most`: on the CPU it is looked at, elsewhere it is clamped.

    Raises:
        ValueError: a number is outside; `why` is added to the message.
    """
    if not readable(value):
        return value.clamp(least, most)
    found = [int(end) for end in value.aminmax()] if value.numel() else []
    for number in found:
        if not least <= number <= most:
            raise ValueError(f"{name} holds {number}; expected numbers from {least} to {most}{why}")
    return value


def given_numbers(values: Tensor | Sequence[int]) -> Tensor:
    """A tensor as it is, a list as one on the CPU, where nobody waits for its numbers."""
    return values if isinstance(values, Tensor) else torch.as_tensor(values, device="cpu")


def moved(tensor: Tensor, device: torch.device | str) -> Tensor:
    """`tensor` on `device`, without waiting for it where the tensor comes from the CPU."""
    return tensor.to(device, non_blocking=tensor.is_cpu)


def check_length(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral | torch.SymInt):
        raise TypeError(f"{name} is {value!r}; expected an integer")
    if value < 0:
        raise ValueError(f"{name} is {value}; expected a number >= 0")


def check_integers(name: str, value: Tensor) -> None:
    """Integers or booleans."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is a {type(value).__name__}; expected an integer tensor")
    if value.is_floating_point() or value.is_complex():
        raise TypeError(f"{name} has dtype {value.dtype}; expected integers or booleans")


def token_mask(name: str, mask: Tensor) -> Tensor:
    """A mask in which 1 = a token and 0 = padding, as booleans.

    Floating masks are mostly meant to be added to the scores, 0 = a token: to read such a one as this kind
    would turn it round. So their values are looked at on any device, those of integers on the CPU.

    Raises:
        ValueError: it holds anything but 0 and 1, or floating zeros only; a RuntimeError from within a graph
            that was traced.
        TypeError: it is complex, or floating under a transform of torch.func.
    """
    if mask.dtype == torch.bool:
        return mask
    floating = mask.is_floating_point()
    transformed = torch._C._are_functorch_transforms_active()
    if mask.is_complex() or (floating and transformed):
        raise TypeError(
            f"{name} has dtype {mask.dtype}; expected booleans or integers, 1 = a token, 0 = padding"
        )
    real = mask == 1
    if transformed or mask.numel() == 0 or not (floating or mask.is_cpu):
        return real
    other = ~(real | (mask == 0))
    if readable(mask):
        if bool(other.any()) or (floating and not real.any()):
            found = mask[other][0].item() if bool(other.any()) else "only 0.0"
            raise ValueError(f"{name} holds {found}; {_TOKEN_MASK.format(name)}")
    elif floating:
        right = real.any() & ~other.any()
        torch._assert_async(right, f"{name} holds other numbers; {_TOKEN_MASK.format(name)}")
    return real


_TOKEN_MASK = (
    "expected 1 = a token and 0 = padding (of a mask that is added to the scores, where 0 = a token, give "
    "{} == 0)"
)


def to_int32(name: str, value: Tensor) -> Tensor:
    check_integers(name, value)
    if value.dtype == torch.int64:
        value = within(name, value, LOWEST, PADDED, ", those of int32")
    return value.to(torch.int32).contiguous()


def check_places(name: str, index: Tensor, stop: int) -> None:
    """Indices below `stop`; looked at on the CPU only: on a GPU, indexing has an assertion of its own."""
    if readable(index) and index.numel():
        least, most = (int(value) for value in index.aminmax())
        if least < 0 or most >= stop:
            raise ValueError(f"{name} holds {least} to {most}; expected 0 to {stop - 1}")


def int32_rows(name: str, value: Tensor) -> Tensor:
    """(B or 1, length) int32."""
    value = to_int32(name, value)
    value = value[None] if value.dim() == 1 else value
    if value.dim() != 2:
        raise ValueError(f"{name} has shape {tuple(value.shape)}; expected (B or 1, length)")
    return value


def check_same_batch(named: dict[str, Tensor | None]) -> None:
    """One device, and one batch size or 1, for the tensors of a mask."""
    present = [(name, t) for name, t in named.items() if t is not None]
    first, reference = present[0]
    batch = None
    for name, tensor in present:
        if tensor.device != reference.device:
            raise ValueError(
                f"{name} is on {tensor.device}; expected the device of {first}, {reference.device}"
            )
        if tensor.shape[0] == 1:
            continue
        if batch is not None and tensor.shape[0] != batch:
            raise ValueError(f"{name} has batch size {tensor.shape[0]}; expected {batch} or 1")
        batch = tensor.shape[0]


def check_same_size(one, other) -> None:
    """Raises where two masks cannot be combined for their lengths, batch sizes or devices."""
    for what in ("query_len", "key_len", "batch_size", "device"):
        pair = getattr(one, what), getattr(other, what)
        if pair[0] != pair[1] and not (what == "batch_size" and 1 in pair):
            raise ValueError(f"the masks have {what} {pair[0]} and {pair[1]}; expected the same")


def positions(query_len: int, key_len: int | None, device) -> tuple[Tensor, int]:
    """(1, L) positions of the queries among the keys, i + S - L, and S."""
    check_length("query_len", query_len)
    key_len = query_len if key_len is None else key_len
    check_length("key_len", key_len)
    position = torch.arange(query_len, dtype=torch.int32, device=device) + (key_len - query_len)
    return position[None], key_len


def refuse_split_documents(ids: Tensor, starts: Tensor) -> None:
    """Raises where an id of a row comes back after another; `starts` marks where each run begins."""
    ordered = ids.sort(dim=1).values
    distinct = (ordered[:, 1:] != ordered[:, :-1]).sum(1) + min(ids.shape[1], 1)
    split = starts.sum(1) != distinct
    if bool(split.any()):
        raise ValueError(
            f"ids has a document whose tokens are not contiguous, in row {int(split.nonzero()[0])}; "
            "expected one run for each id (AttentionMask.dense takes any mask)"
        )


def normal_tree(tree: Tensor) -> Tensor:
    """Trunk as 0 or 1, empty branch intervals as (2**31 - 1, -2**31): plain comparison finds no overlap."""
    trunk, low, high = tree.unbind(1)
    empty = low > high
    low, high = torch.where(empty, PADDED, low), torch.where(empty, LOWEST, high)
    return torch.stack([trunk.ne(0).to(torch.int32), low, high], dim=1)


def tree_visible(tree: Tensor, query_len: int) -> Tensor:
    """(B or 1, L, S) booleans of K-BERT's visible matrix; query i is token i + S - L."""
    trunk, low, high = tree.unbind(1)
    start = tree.shape[2] - query_len
    q_trunk, q_low, q_high = (t[:, start:, None] for t in (trunk, low, high))
    k_trunk, k_low, k_high = (t[:, None, :] for t in (trunk, low, high))
    overlap = (q_low <= k_high) & (k_low <= q_high)
    return ((q_trunk > 0) & (k_trunk > 0)) | overlap


def one_row(
    vectors: tuple[Tensor, Tensor, Tensor], rows: Tensor, columns: Tensor, unbounded: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The vectors (1, T) of a mask for tokens picked from a batch, whose rows do not see each other.

    Args:
        vectors: rank, low and high, (B, S) each; B = 1 stands for every row.
        rows, columns: (T,) where token t comes from.
        unbounded: the ranks may be any int32 numbers, not only places of keys.

    Raises:
        ValueError: the ranks take more than int32 (on a GPU, an assertion there).
    """
    batch, length = vectors[0].shape
    if length == 0:
        return tuple(t[:1] for t in vectors)
    source = (rows if batch > 1 else rows * 0, columns)
    rank, low, high = (t.long() for t in vectors)
    real = rank != PADDED
    least = torch.where(real, rank, PADDED).amin(1)
    most = torch.where(real, rank, LOWEST).amax(1).maximum(least - 1)
    span = most - least + 1
    # The ranks of a batch row start where those of the row before it end.
    start = (span.cumsum(0) - span)[rows] if batch > 1 else span * rows
    least, most, span = least[source[0]], most[source[0]], span[source[0]]
    if unbounded:
        _check_spread(start + span)
    offset = start - least
    rank = torch.where(real[source], rank[source] + offset, PADDED)
    low = low[source].maximum(least).minimum(most + 1) + offset
    high = high[source].minimum(most).maximum(least - 1) + offset
    rank, low, high = (t[None].to(torch.int32) for t in (rank, low, high))
    return rank, low, high


def _check_spread(ends: Tensor) -> None:
    """Raises where the last ranks, one for each token, are beyond int32; on a GPU, an assertion there."""
    message = "the ranks of the mask spread over more than 2**31 values"
    fits = (ends < PADDED).all()
    if not readable(ends):
        torch._assert_async(fits, message)
    elif not fits:
        raise ValueError(message)
