"""Drop-in modules over the ops."""

from ptmkernels.nn.multihead_attention import MultiheadAttention

__all__ = ["MultiheadAttention"]
