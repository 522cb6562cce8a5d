"""Tiny runs: a model of a few thousand weights on random text. Also a script, for runs in other processes.

python -m tests.training.runs OUTPUT '{"steps": 9, …}'
"""

import json
import sys
from pathlib import Path

import torch

from ptmkernels import create_model
from ptmkernels.data import CausalSegments, MaskedDataset, Masking, SentencePairs
from ptmkernels.objectives import BertPretraining, CausalLanguageModelling
from ptmkernels.training import Trainer, TrainingConfig, latest_checkpoint
from ptmkernels.training.trainer import count_processes
from tests.data.corpora import random_corpus, tokenizer

TOKENIZER = tokenizer()
SIZES = {
    "vocab_size": TOKENIZER.vocab_size,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 41,
    "max_position_embeddings": 33,
}


def tiny_model(dropout=0.1, head="pretraining", seed=0, **config):
    torch.manual_seed(seed)
    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    return create_model("bert-tiny", head=head, **SIZES, **rates, **config)


def tiny_dataset(seed=0, duplicates=None, documents=12, corpus=random_corpus):
    # Many short rows: batches differ in the number of their predictions, so no mean of means goes unseen.
    source = SentencePairs(corpus(documents, seed), TOKENIZER, 33, short_probability=0.7)
    masking = Masking.of(TOKENIZER)
    return MaskedDataset(source, masking, pad_id=TOKENIZER.pad_id, seed=seed, duplicates=duplicates)


def tiny_trainer(output=None, *, dropout=0.1, objective=None, held_out=True, data=None, **settings):
    settings = {"steps": 6, "batch_size": 4, "learning_rate": 1e-2, "log_every": 1} | settings
    return Trainer(
        tiny_model(dropout),
        objective or BertPretraining(),
        data or tiny_dataset(),
        TrainingConfig(**settings),
        output=output,
        held_out=tiny_dataset(1, 1, documents=3) if held_out else None,
        files=TOKENIZER.files(),
    )


def recurrent_trainer(output=None, *, batch_size, **settings):
    """Transformer-XL whose memory is longer than a segment, without dropout; rows as `batch_size` asks."""
    torch.manual_seed(0)
    model = create_model(
        *("transformer-xl-base", "causal-lm"),
        **{"vocab_size": TOKENIZER.vocab_size, "d_model": 24, "d_embed": 24, "n_layer": 2},
        **{"n_head": 2, "d_head": 9, "d_inner": 31, "mem_len": 14, "cutoffs": [30]},
        dropout=0.0,
    )
    rows = {"batch_size": batch_size, "num_processes": count_processes()}
    data = CausalSegments(random_corpus(12), TOKENIZER, length=11, stride=11, seed=0, **rows)
    config = TrainingConfig(batch_size=batch_size, learning_rate=1e-2, log_every=1, **settings)
    objective = CausalLanguageModelling()
    return Trainer(model, objective, data, config, output=output, files=TOKENIZER.files())


def weights(trainer):
    return {name: tensor.clone() for name, tensor in trainer.bare_model.state_dict().items()}


def same_bits(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def main(output, settings):
    torch.set_num_threads(1)
    settings = json.loads(settings)
    if settings.pop("recurrent", False):
        trainer = recurrent_trainer(Path(output), **settings)
    else:
        trainer = tiny_trainer(Path(output), held_out=False, **settings)
    if checkpoint := latest_checkpoint(Path(output)):
        trainer.resume(checkpoint)
    result = trainer.run()
    if trainer.accelerator.is_main_process:
        print(json.dumps(result.history.training))
    # A process that ends while its group is open may be aborted by the threads of the group.
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main(*sys.argv[1:])
