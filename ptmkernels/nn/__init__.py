"""Drop-in modules over the ops."""

from ptmkernels.nn.multihead_attention import MultiheadAttention
from ptmkernels.nn.relative_attention import RelativeMultiheadAttention, TwoStreamAttention

__all__ = ["MultiheadAttention", "RelativeMultiheadAttention", "TwoStreamAttention"]
