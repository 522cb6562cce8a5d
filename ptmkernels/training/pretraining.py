"""Pre-training from a text: corpus, tokenizer, model and trainer put together, and a run that goes on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ptmkernels.checkpoint import read_json
from ptmkernels.data.corpus import DEFAULT_CORPUS, Corpus, choose_held_out
from ptmkernels.data.dataset import MaskedDataset
from ptmkernels.data.encoding import EncodedCorpus, encode_corpus
from ptmkernels.data.masking import Masking
from ptmkernels.data.packing import FullSentences
from ptmkernels.data.permutation import Permutation
from ptmkernels.data.segments import CausalSegments, PermutedSegments, SegmentDataset
from ptmkernels.data.sentence_pairs import SentencePairs
from ptmkernels.data.tokenizer import WordPieceTokenizer
from ptmkernels.files import atomic_files
from ptmkernels.models.base import Model
from ptmkernels.objectives import (
    BertPretraining,
    CausalLanguageModelling,
    MaskedLanguageModelling,
    PermutationLanguageModelling,
)
from ptmkernels.registry import create_model, model_card
from ptmkernels.training.checkpoints import latest_checkpoint
from ptmkernels.training.config import TrainingConfig
from ptmkernels.training.local_start import start_local
from ptmkernels.training.trainer import Trainer, count_processes

__all__ = ["OBJECTIVES", "PretrainingConfig", "prepare_pretraining"]

SETTINGS = "pretraining.json"  # in the folder of a run

OBJECTIVES = {
    "mlm+nsp": BertPretraining,
    "mlm": MaskedLanguageModelling,
    "lm": CausalLanguageModelling,
    "plm": PermutationLanguageModelling,
}

STARTS = ("paper", "local")

EVALUATION_TOKENS = 32768
MAX_EVALUATION_REPLICAS = 10

Documents = Callable[[], Iterator[list[str]]]


@dataclass(frozen=True, kw_only=True)
class PretrainingConfig:
    """Everything that a pre-training run depends on.

    Args:
        model: full name of a preset, such as "bert-tiny".
        training: settings of the loop.
        overrides: values of the model's configuration.
        corpus: what :class:`Corpus` reads.
        layout: of its files.
        held_out: a share of the documents, or a text of its own, for evaluation; 0 = none.
        tokenizer: a folder to read it from; None = learn one from the training documents.
        vocab_size: pieces to learn.
        lowercase: drop case and accents when learning.
        objective: "mlm+nsp" (BERT), "mlm" on full sentences (RoBERTa), "lm" with memory (Transformer-XL),
            "plm" (XLNet).
        max_length: tokens in an example, or in a segment.
        duplicates: None = dynamic masking; a number = static, as many replicas.
        mask_probability: share of the tokens to predict.
        max_predictions: in an example at most; of "plm": exactly, None = a sixth.
        whole_words: hide whole words.
        short_probability: share of the documents cut to shorter pairs.
        start: the weights that a run starts from: "paper", or "local" (:func:`start_local`).

    Raises:
        ValueError: the objective or the start is unknown.
    """

    model: str
    training: TrainingConfig
    overrides: Mapping[str, Any] = field(default_factory=dict)
    corpus: list[str] = field(default_factory=lambda: [DEFAULT_CORPUS])
    layout: str = "auto"
    held_out: float | str = 0.05
    tokenizer: str | None = None
    vocab_size: int = 30522
    lowercase: bool = True
    objective: str = "mlm+nsp"
    max_length: int = 128
    duplicates: int | None = None
    mask_probability: float = 0.15
    max_predictions: int | None = None
    whole_words: bool = False
    short_probability: float = 0.1
    start: str = "paper"

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise ValueError(
                f"objective is {self.objective!r}; expected one of {', '.join(OBJECTIVES)}"
            )
        if self.start not in STARTS:
            raise ValueError(f"start is {self.start!r}; expected one of {', '.join(STARTS)}")
        if self.start == "local" and not self.objective.startswith("mlm"):
            raise ValueError(f"start is 'local', which objective {self.objective!r} does not have")
        if self.objective == "plm" and (self.max_length % 2 or self.max_length < 10):
            raise ValueError(
                f"max_length is {self.max_length}; objective 'plm' needs an even number >= 10"
            )

    @classmethod
    def read(cls, run: Path) -> PretrainingConfig:
        """The settings that a run was started with.

        Raises:
            OSError: the folder holds none.
            ValueError: the file is damaged; names it.
        """
        path = run / SETTINGS
        content = read_json(path)
        try:
            return cls(training=TrainingConfig(**content.pop("training")), **content)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} holds no settings of a run: {error}") from None

    def write(self, run: Path) -> None:
        """Keep the settings in the folder of the run."""
        with atomic_files(run) as at:
            at(SETTINGS).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    def flat(self) -> dict[str, Any]:
        """All settings by name, those of the loop among them."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        return own | asdict(own.pop("training"))

    def changed(self, **settings: Any) -> PretrainingConfig:
        """A copy with other settings, those of the loop included."""
        own = {f.name for f in fields(self)}
        loop = {n: v for n, v in settings.items() if n not in own}
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["training"] = TrainingConfig(**(asdict(self.training) | loop))
        return PretrainingConfig(**(values | {n: v for n, v in settings.items() if n in own}))


def prepare_pretraining(
    config: PretrainingConfig,
    output: str | Path | None,
    *,
    resume: bool = False,
    say: Callable[[str], None] | None = None,
) -> Trainer:
    """Read the corpus, learn or read the tokenizer, build the model: a trainer, ready to run.

    Args:
        config: the settings.
        output: folder of the run; None = nothing is written.
        resume: go on from the newest checkpoint in it, where there is one.
        say: is called with what was guessed about the text.

    Raises:
        OSError, ValueError: what the parts raise: a file that cannot be read, an unknown preset, …
    """
    _check_model(config)
    run = None if output is None else Path(output)
    checkpoint = latest_checkpoint(run) if run is not None and resume else None
    training, held_out = _split(config, say)
    if checkpoint is not None:
        tokenizer = WordPieceTokenizer.load(checkpoint)
    elif config.tokenizer is not None:
        tokenizer = WordPieceTokenizer.load(config.tokenizer)
    else:
        sentences = (sentence for document in training() for sentence in document)
        tokenizer = WordPieceTokenizer.learn(
            sentences, config.vocab_size, lowercase=config.lowercase, max_length=config.max_length
        )
    objective = OBJECTIVES[config.objective]()
    model = _build_model(config, objective.head, tokenizer)
    data = _dataset(config, training, tokenizer)
    if config.start == "local":
        counts = np.bincount(data.source.corpus.tokens, minlength=tokenizer.vocab_size)
        start_local(model, counts)
    evaluation = None
    if held_out is not None:
        evaluation = _dataset(config, held_out, tokenizer, evaluation=True)
    trainer = Trainer(
        model,
        objective,
        data,
        config.training,
        output=run,
        held_out=evaluation,
        files=tokenizer.files(),
    )
    if checkpoint is not None:
        trainer.resume(checkpoint)
    return trainer


def _check_model(config: PretrainingConfig) -> None:
    """Refuse what the model cannot be before a long text is read."""
    card = model_card(config.model)
    if card.architecture is None:
        raise ValueError(f"{card.name} has no objective of these: {', '.join(OBJECTIVES)}")
    try:
        card.architecture.head(OBJECTIVES[config.objective].head)
    except ValueError as error:
        raise ValueError(f"objective {config.objective!r} does not fit: {error}") from None
    card.config(config.model).replace(**config.overrides)


def _split(
    config: PretrainingConfig, say: Callable[[str], None] | None
) -> tuple[Documents, Documents | None]:
    """Readers of the training documents and of those held out."""
    corpus = Corpus(config.corpus, config.layout)
    count = sum(1 for _ in corpus)
    guesses = corpus.guesses()
    for guess in guesses if say is not None else ():
        say(guess)
    if isinstance(config.held_out, str):
        return partial(iter, corpus), partial(iter, Corpus(config.held_out, config.layout))
    # Both sides need another document to draw a random next sentence from.
    least = 2 if config.objective == "mlm+nsp" else 1
    try:
        chosen = choose_held_out(count, config.held_out, config.training.seed, least)
    except ValueError as error:
        raise ValueError("; ".join([str(error), *guesses])) from None
    training = partial(compress, corpus, ~chosen)
    return training, partial(compress, corpus, chosen) if chosen.any() else None


def _build_model(config: PretrainingConfig, head: str, tokenizer: WordPieceTokenizer) -> Model:
    overrides = {"vocab_size": tokenizer.vocab_size, **_for_memory(config, tokenizer)}
    overrides |= config.overrides
    torch.manual_seed(config.training.seed)
    model = create_model(config.model, head=head, **overrides)
    for name, least in (
        ("max_position_embeddings", config.max_length),
        ("vocab_size", tokenizer.vocab_size),
    ):
        if getattr(model.config, name, least) < least:
            raise ValueError(
                f"{name} is {getattr(model.config, name)}; expected at least {least}, "
                f"{'the length of an example' if least == config.max_length else 'the vocabulary'}"
            )
    return model


def _dataset(
    config: PretrainingConfig,
    documents: Documents,
    tokenizer: WordPieceTokenizer,
    *,
    evaluation: bool = False,
) -> MaskedDataset | SegmentDataset:
    corpus = encode_corpus(documents(), tokenizer)
    if config.objective in ("lm", "plm"):
        return _segments(config, corpus, tokenizer)
    masking = Masking.of(
        tokenizer,
        whole_words=config.whole_words,
        probability=config.mask_probability,
        max_predictions=config.max_predictions,
    )
    if config.objective == "mlm+nsp":
        source = SentencePairs(corpus, tokenizer, config.max_length, config.short_probability)
    else:
        source = FullSentences(corpus, tokenizer, config.max_length)
    duplicates = config.duplicates
    if evaluation:
        # A small text is masked several times over, so that its loss is less a matter of chance.
        duplicates = math.ceil(min(EVALUATION_TOKENS / corpus.num_tokens, MAX_EVALUATION_REPLICAS))
    seed = config.training.seed
    return MaskedDataset(source, masking, pad_id=tokenizer.pad_id, seed=seed, duplicates=duplicates)


def _for_memory(config: PretrainingConfig, tokenizer: WordPieceTokenizer) -> dict[str, Any]:
    """What the configuration of a model with memory takes from the run, unless it is overridden."""
    if config.objective == "lm":
        cutoffs = model_card(config.model).config(config.model).cutoffs
        return {"cutoffs": [cutoff for cutoff in cutoffs if cutoff < tokenizer.vocab_size]}
    if config.objective == "plm":  # the published shares: 256 and 384 of 512
        reuse = config.max_length // 2
        return {"reuse_len": reuse, "mem_len": 3 * reuse // 2, "bi_data": True}
    return {}


def _segments(
    config: PretrainingConfig, corpus: EncodedCorpus, tokenizer: WordPieceTokenizer
) -> SegmentDataset:
    length = config.max_length
    options = {
        "batch_size": config.training.batch_size,
        "num_processes": count_processes(),
        "length": length,
        "seed": config.training.seed,
    }
    if config.objective == "lm":
        return CausalSegments(corpus, tokenizer, stride=length, **options)
    reuse = length // 2
    permutation = Permutation(config.max_predictions or round(length / 6), reuse, reuse)
    return PermutedSegments(corpus, tokenizer, stride=reuse, permutation=permutation, **options)
