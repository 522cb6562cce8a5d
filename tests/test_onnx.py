"""torch.onnx.export(..., dynamo=True) of modules and models, run by onnxruntime beside eager."""

from functools import partial

import pytest
import torch
from torch import nn

import ptmkernels as ptm
from ptmkernels.nn import MultiheadAttention, RelativeMultiheadAttention, TwoStreamAttention
from ptmkernels.ops import masked_attention

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package)

BATCH, BOTH = {0: "batch"}, {0: "batch", 1: "length"}


class SelfAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x, hidden):
        return self.attention(x, x, x, key_padding_mask=hidden)

    @staticmethod
    def inputs(batch, length):
        hidden = torch.zeros(batch, length, dtype=torch.bool)
        hidden[1:, length // 2 :] = True
        return {"x": torch.randn(batch, length, 16), "hidden": hidden}


class WithDistances(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = RelativeMultiheadAttention(2, 16, 8, 0.0, batch_first=True)

    def forward(self, w, r):
        return self.attention(w, r)[0]

    @staticmethod
    def inputs(batch, length):
        return {"w": torch.randn(batch, length, 16), "r": torch.randn(1, length, 16)}


class TwoStreams(nn.Module):
    """Masks that rank the keys alike, so that one call serves both streams in eager mode."""

    def __init__(self):
        super().__init__()
        self.attention = TwoStreamAttention(16, 2, batch_first=True)

    def forward(self, h, g, order, places, r, segments):
        targets = torch.zeros_like(order, dtype=torch.bool).scatter(1, places, True)
        content = ptm.AttentionMask.permutation(order, targets)
        stream = ptm.AttentionMask.permutation(order, targets, "query", query_index=places)
        masks = (content, stream)
        return self.attention(h, g, *masks, r, (segments, segments), target_mapping=places)

    @staticmethod
    def inputs(batch, length):
        orders = torch.stack([torch.randperm(length) for _ in range(batch)])
        return {
            "h": torch.randn(batch, length, 16),
            "g": torch.randn(batch, 2, 16),
            "order": orders,
            "places": orders[:, :2],
            "r": torch.randn(1, 2 * length, 16),
            "segments": torch.randint(2, (batch, length)),
        }


def token_ids(batch, length):
    return {"input_ids": torch.randint(6, 50, (batch, length))}


def padded_ids(batch, length):
    mask = torch.ones(batch, length, dtype=torch.long)
    mask[1:, length // 2 :] = 0
    return {**token_ids(batch, length), "attention_mask": mask}


def model(preset, head, **sizes):
    return ptm.create_model(preset, head, vocab_size=50, **sizes)


def export(module, inputs, shapes):
    options = {"dynamo": True, "dynamic_shapes": shapes, "verbose": False}
    return torch.onnx.export(module, (), kwargs=inputs, **options)


@pytest.mark.parametrize(
    ("make", "inputs", "shapes", "sizes"),
    [
        (SelfAttention, SelfAttention.inputs, {"x": BOTH, "hidden": BOTH}, [(2, 5), (3, 7)]),
        (WithDistances, WithDistances.inputs, {"w": BOTH, "r": {1: "length"}}, [(2, 5), (3, 7)]),
        (
            TwoStreams,
            TwoStreams.inputs,
            dict.fromkeys(("h", "g", "order", "places", "segments"), BATCH) | {"r": {}},
            [(2, 5), (3, 5)],
        ),
        (
            partial(model, "bert-tiny", "sequence-classification", num_hidden_layers=1),
            padded_ids,
            {"input_ids": BOTH, "attention_mask": BOTH},
            [(2, 5), (3, 7)],
        ),
        (
            partial(model, "transformer-xl-tiny", "causal-lm", n_layer=1, cutoffs=[20]),
            token_ids,
            {"input_ids": BOTH},
            [(2, 5), (3, 7)],
        ),
    ],
    ids=["self-attention", "distances", "two-streams", "bert", "transformer-xl"],
)
def test_answers_as_eager(make, inputs, shapes, sizes):
    torch.manual_seed(0)
    module = make().eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    program = export(module, inputs(*sizes[0]), shapes)
    assert {node.domain for node in program.model.graph} <= {"", "pkg.onnxscript.torch_lib"}
    for size in sizes:
        given = inputs(*size)
        with torch.no_grad():
            expected = torch.utils._pytree.tree_leaves(module(**given))
        for found, right in zip(program(**given), expected, strict=True):
            torch.testing.assert_close(found, right, atol=1e-4, rtol=1e-4)


def test_torch_export_keeps_our_ops():
    exported = torch.export.export(SelfAttention().eval(), (), SelfAttention.inputs(2, 5))
    assert "torch.ops.ptmkernels.attention_forward" in exported.graph_module.code


def test_a_forced_backend_is_refused():
    class Forced(nn.Module):
        def forward(self, x):
            return masked_attention(x, x, x, backend="cpu")

    with pytest.raises(Exception, match="an ONNX file holds no kernels"):
        export(Forced().eval(), {"x": torch.randn(1, 1, 3, 8)}, None)
