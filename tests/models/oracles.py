"""What the tests of models share: gradients beside an oracle's, and the masks that reach the ops."""

import torch

from ptmkernels.ops import attention
from ptmkernels.ops.attention import relative
from ptmkernels.ops.attention.call import call_attention
from tests.tolerances import ORACLE_GRADIENT


def assert_same_gradients(model, actual, oracle, expected):
    """Those of the scalars `actual` and `expected`; the oracle has parameters of the published names."""
    actual.backward()
    expected.backward()
    gradients = {name: parameter.grad for name, parameter in oracle.named_parameters()}
    published = model.published_names()
    for name, parameter in model.named_parameters():
        theirs = gradients[published[name]]
        if theirs is None:
            assert parameter.grad is None
            continue
        torch.testing.assert_close(
            parameter.grad,
            theirs,
            **ORACLE_GRADIENT,
            msg=lambda m, n=name: f"gradient of {n}: {m}",
        )


def record_masks(monkeypatch):
    """The list to which each call of an attention op adds its mask from now on."""
    masks = []

    def recording(op, query, key, value, mask, *arguments, **options):
        masks.append(mask)
        return call_attention(op, query, key, value, mask, *arguments, **options)

    for module in (attention, relative):
        monkeypatch.setattr(module, "call_attention", recording)
    return masks
