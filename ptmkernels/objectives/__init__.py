"""Training objectives, one file each: callables on (model, batch) that give a loss and metrics."""

from ptmkernels.objectives.base import Mean, Objective, Outcome
from ptmkernels.objectives.bert import BertPretraining
from ptmkernels.objectives.mlm import MaskedLanguageModelling
from ptmkernels.objectives.nsp import NextSentencePrediction

__all__ = [
    "BertPretraining",
    "MaskedLanguageModelling",
    "Mean",
    "NextSentencePrediction",
    "Objective",
    "Outcome",
]
