"""The start for small corpora: where its heads look, what passes them, where its loss begins."""

import numpy as np
import pytest
import torch

from ptmkernels import create_model
from ptmkernels.training.local_start import start_local
from tests.training.runs import SIZES, tiny_dataset

V = SIZES["vocab_size"]


def started(counts=None, **overrides):
    torch.manual_seed(0)
    sizes = SIZES | {"hidden_size": 96, "num_attention_heads": 4} | overrides
    model = create_model("bert-tiny", head="pretraining", **sizes).eval()
    start_local(model, np.ones(V) if counts is None else counts)
    return model


@torch.no_grad()
def attention_of_first_layer(model, length=31):
    ids = torch.randint(5, V, (3, length))
    return model(ids, output_attentions=True).attentions[0].mean(0)


def test_heads_look_at_their_neighbours():
    weights = attention_of_first_layer(started())
    for head, offset in enumerate((-1, 1, -2, 2)):
        inside = weights[head].diagonal(offset)
        assert inside.mean() > 0.6
        assert inside.mean() > 5 * weights[head].diagonal(-offset).mean()


def test_the_papers_start_looks_everywhere():
    torch.manual_seed(0)
    model = create_model("bert-tiny", head="pretraining", **SIZES).eval()
    assert attention_of_first_layer(model).max() < 2 / 31


def test_what_is_attended_to_passes_unchanged_in_the_first_layer_only():
    first, second = (layer.attention for layer in started().backbone.stack.layers)
    size = first.value.weight.shape[0]
    torch.testing.assert_close(first.output.weight @ first.value.weight, torch.eye(size))
    assert (second.output.weight @ second.value.weight).abs().max() < 0.1


def test_the_loss_begins_at_the_entropy_of_the_tokens():
    data = tiny_dataset(documents=40)
    counts = np.bincount(data.source.corpus.tokens, minlength=V)
    model = started(counts)
    shares = counts[counts > 0] / counts.sum()
    entropy = -(shares * np.log(shares)).sum()
    batch = data.epoch_batch(0, 64)
    with torch.no_grad():
        logits = model(**batch).prediction_logits
    labels = batch["labels"]
    loss = torch.nn.functional.cross_entropy(logits[labels >= 0], labels[labels >= 0])
    assert loss.item() == pytest.approx(entropy, abs=0.15)
    assert torch.isfinite(model.lm_head.bias).all()  # tokens that never occur too


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="the heads have 1 dimensions"):
        started(hidden_size=4)
    with pytest.raises(ValueError, match=f"token_counts has {V + 1} entries; expected at most {V}"):
        started(np.ones(V + 1))
