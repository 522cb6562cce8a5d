"""Functions on tensors with autograd, fake tensors and torch.compile."""

from ptmkernels.ops.attention import (
    BucketedBias,
    StreamOrder,
    attention_weights,
    masked_attention,
    relative_attention,
    t5_buckets,
    two_stream_attention,
)
from ptmkernels.ops.hierarchical_softmax import (
    HuffmanTree,
    hierarchical_softmax_log_prob,
    hierarchical_softmax_loss,
)
from ptmkernels.ops.negative_sampling import AliasTable, negative_sampling_loss
from ptmkernels.ops.template_op import template_op
from ptmkernels.ops.word_vectors import cbow_step_, glove_step_, skipgram_step_

__all__ = [
    "AliasTable",
    "BucketedBias",
    "HuffmanTree",
    "StreamOrder",
    "attention_weights",
    "cbow_step_",
    "glove_step_",
    "hierarchical_softmax_log_prob",
    "hierarchical_softmax_loss",
    "masked_attention",
    "negative_sampling_loss",
    "relative_attention",
    "skipgram_step_",
    "t5_buckets",
    "template_op",
    "two_stream_attention",
]
