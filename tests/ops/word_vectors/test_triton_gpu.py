"""What only a GPU can show of the Triton steps: programs that run at the same time."""

import pytest
import torch

from ptmkernels._selector import unavailable
from ptmkernels.models import Word2Vec
from ptmkernels.ops import AliasTable, cbow_step_, skipgram_step_
from tests.ops.word_vectors.test_steps import case

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() or unavailable("triton") is not None,
        reason="needs a GPU and Triton",
    ),
]


def train(step, tokens, matrices, device, backend):
    counts = torch.tensor([1000 // (i + 1) + 1 for i in range(500)])
    a, b = (m.clone().to(device) for m in matrices)
    statistics = step(
        a, b, tokens.to(device), window=3, learning_rate=0.01, total=10**9, backend=backend,
        sampler=AliasTable.from_counts(counts).to(device), seed=torch.tensor([1], device=device),
    )  # fmt: skip
    return a, b, statistics


@pytest.mark.parametrize("step", [skipgram_step_, cbow_step_])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_programs_train_every_pair_once(step, dtype):
    """And learn as much as one CPU thread does."""
    _, tokens, matrices = case(vocabulary=500, tokens=60_000, width=100, dtype=dtype)
    *alone, one = train(step, tokens, matrices, "cpu", "cpu")
    *together, many = train(step, tokens, matrices, "cuda", "triton")
    assert (one.pairs, one.words) == (many.pairs, many.words)
    assert many.loss == pytest.approx(one.loss, rel=0.05)
    losses = [train(step, tokens, m, "cpu", "cpu")[2].loss for m in (alone, together)]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_fit_brings_the_vectors_back():
    sentences = [[f"w{(i * j) % 40}" for j in range(9)] for i in range(200)]
    model = Word2Vec(vector_size=20, min_count=1).fit(sentences, epochs=1, device="cuda")
    assert model.input.device.type == "cpu"
    assert model.wv["w1"].shape == (20,)
