"""Training: one loop, optimizers, schedules, checkpoints; and pre-training from a text."""

from ptmkernels.training.checkpoints import checkpoints_of, latest_checkpoint
from ptmkernels.training.config import TrainingConfig
from ptmkernels.training.lamb import Lamb
from ptmkernels.training.optimizers import create_optimizer, parameter_groups
from ptmkernels.training.pretraining import PretrainingConfig, prepare_pretraining
from ptmkernels.training.schedules import create_schedule
from ptmkernels.training.trainer import Trainer, TrainingResult

__all__ = [
    "Lamb",
    "PretrainingConfig",
    "Trainer",
    "TrainingConfig",
    "TrainingResult",
    "checkpoints_of",
    "create_optimizer",
    "create_schedule",
    "latest_checkpoint",
    "parameter_groups",
    "prepare_pretraining",
]
