"""The mask filler agrees with the model it holds, and refuses what it cannot fill."""

import pytest
import torch

from ptmkernels.data import WordPieceTokenizer
from ptmkernels.inference import MaskFiller
from ptmkernels.registry import create_model

SENTENCES = ["the if statement is used for conditional execution", "the loop ends here"] * 4


@pytest.fixture(scope="module")
def filler():
    tokenizer = WordPieceTokenizer.learn(SENTENCES, 120)
    torch.manual_seed(0)
    size = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2}
    model = create_model(
        "bert-tiny", head="masked-lm", vocab_size=tokenizer.vocab_size, intermediate_size=32, **size
    )
    return MaskFiller(model, tokenizer)


def test_predictions_are_the_models(filler):
    text = "the [MASK] statement [MASK] here"
    first, second = filler(text, top=3)
    ids = torch.tensor(filler.tokenizer.encode([text], special_tokens=True))
    expected = filler.model(ids).logits[0].softmax(-1)[ids[0] == filler.tokenizer.mask_id]
    for row, predictions in zip(expected, (first, second), strict=True):
        assert [p.token for p in predictions] == [
            filler.tokenizer.tokens[i] for i in row.argsort(descending=True)[:3]
        ]
        assert predictions[0].probability == pytest.approx(row.max().item())


def sized(filler, vocab_size):
    """A filler with the same tokenizer and a model of another vocabulary."""
    torch.manual_seed(0)
    return MaskFiller(
        create_model("bert-tiny", "masked-lm", num_hidden_layers=1, vocab_size=vocab_size),
        filler.tokenizer,
    )


def test_rows_that_are_no_token_are_not_predicted(filler):
    tokens = filler.tokenizer.vocab_size
    predictions = sized(filler, tokens + 999)("a [MASK]", tokens)[0]
    assert {p.token for p in predictions} == set(filler.tokenizer.tokens)
    assert sum(p.probability for p in predictions) == pytest.approx(1.0)
    with pytest.raises(ValueError, match=f"has {tokens} tokens; expected at most {tokens - 1}"):
        sized(filler, tokens - 1)


def test_a_text_without_mask_is_refused(filler):
    with pytest.raises(ValueError, match="no \\[MASK\\]"):
        filler("the statement")


def test_saved_and_loaded(filler, tmp_path):
    filler.model.save_pretrained(tmp_path)
    filler.tokenizer.save(tmp_path)
    assert MaskFiller.load(tmp_path)("a [MASK]", 2) == filler("a [MASK]", 2)
