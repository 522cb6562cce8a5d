"""Training objectives, one file each: callables on (model, batch) that give a loss and metrics."""

from ptmkernels.objectives.base import Mean, Objective, Outcome
from ptmkernels.objectives.bert import BertPretraining
from ptmkernels.objectives.mlm import MaskedLanguageModelling
from ptmkernels.objectives.nsp import NextSentencePrediction
from ptmkernels.objectives.recurrent import CausalLanguageModelling, PermutationLanguageModelling

__all__ = [
    "BertPretraining",
    "CausalLanguageModelling",
    "MaskedLanguageModelling",
    "Mean",
    "NextSentencePrediction",
    "Objective",
    "Outcome",
    "PermutationLanguageModelling",
]
