"""Functions on tensors with autograd, fake tensors and torch.compile."""

from ptmkernels.ops.attention import BucketedBias, attention_weights, masked_attention, t5_buckets
from ptmkernels.ops.template_op import template_op

__all__ = ["BucketedBias", "attention_weights", "masked_attention", "t5_buckets", "template_op"]
