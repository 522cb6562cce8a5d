"""Attention over interval masks, with relative positions, with XLNet's two streams, and its weights."""

from __future__ import annotations

from torch import Tensor

from ptmkernels._library import cpu_library_error, cuda_library_error
from ptmkernels.masks import AttentionMask
from ptmkernels.ops.attention import autograd, triton_ops
from ptmkernels.ops.attention.call import autocast, call_attention, draw_seed
from ptmkernels.ops.attention.options import BucketedBias, t5_buckets
from ptmkernels.ops.attention.relative import relative_attention
from ptmkernels.ops.attention.stream_order import StreamOrder
from ptmkernels.ops.attention.two_stream import two_stream_attention
from ptmkernels.ops.attention.weights import attention_weights

__all__ = [
    "BucketedBias",
    "StreamOrder",
    "attention_weights",
    "draw_seed",
    "masked_attention",
    "relative_attention",
    "t5_buckets",
    "two_stream_attention",
]

if cpu_library_error() is None:
    cuda_library_error()
    for precision in ("", "_tf32"):
        autograd.register(
            f"ptmkernels::attention_forward{precision}",
            f"ptmkernels::attention_backward{precision}",
            autograd.layout_like,
        )
triton_ops.register()


def masked_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: AttentionMask | None = None,
    *,
    bias: Tensor | BucketedBias | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
    seed: Tensor | None = None,
    backend: str | None = None,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Softmax attention under an interval mask, fused: no L x S tensor is built.

    o_i = sum_j softmax_j(scale * q_i.k_j + bias_ij) v_j over the keys j that query i may see
    (Vaswani et al. 2017, equation 1). A query that may see nothing gives zeros and zero gradients.
    On a GPU the last bits of the gradient of `query` may change from run to run, unless
    ``torch.use_deterministic_algorithms(True)`` asks for the slower kernels that add in a fixed order.

    Args:
        query: (B, H, L, D), float32, bfloat16 or float16; float64 and D > 256 are served by `reference`.
        key: (B, Hk, S, D), Hk a divisor of H: query head h reads key head h // (H // Hk).
        value: (B, Hk, S, D).
        mask: what each query may see; None = everything.
        bias: added to the scores after scaling: a tensor that broadcasts to (B, H, L, S), or a
            :class:`BucketedBias`; both with a gradient. A bias of -inf hides.
        scale: factor of the products; None = 1 / sqrt(D).
        dropout_p: probability with which an attention weight is dropped, 0 <= p < 1.
        seed: int64 (1,) on the device of `query`, the key of the dropout bits, which are the same in
            every backend; None = drawn from torch's generator.
        backend: "cpu", "triton", "cuda" or "reference"; None = the environment variable
            PTMKERNELS_BACKEND, else the fastest that can serve.
        return_lse: also return the log-sum-exp of the scores, (B, H, L) float32, -inf where a query
            sees nothing; differentiable.

    Returns:
        Output (B, H, L, D) in the dtype of `query`, or (output, lse).

    Raises:
        ValueError, TypeError: an argument does not fit; the message names it.
        RuntimeError: the forced backend cannot serve this call; the message says why.
    """
    query, key, value = autocast(query, key, value)
    output, lse = call_attention(
        *("masked_attention", query, key, value, mask, bias, scale, dropout_p, seed, backend)
    )
    return (output, lse) if return_lse else output
