"""The train step and its parts: state, optimizer, EMAs, augmentation, validation.

train step    make_init, make_train_step, several_steps, StepOptions, TrainStep, Batch,
              Augment
state         TrainState, BadSteps
optimizer     make_optimizer, learning_rate, Schedule
EMAs          ema, fixed_decay, half_life, power_function, Ema
augmentation  make_augment, NUM_LABELS
validation    make_validation

`posthoc_ema` computes EMAs of other widths after training.
"""

from cdt.training.augment import NUM_LABELS, make_augment
from cdt.training.optim import (
    Ema,
    Schedule,
    ema,
    fixed_decay,
    half_life,
    learning_rate,
    make_optimizer,
    power_function,
)
from cdt.training.state import BadSteps, TrainState
from cdt.training.step import (
    Augment,
    Batch,
    StepOptions,
    TrainStep,
    make_init,
    make_train_step,
    several_steps,
)
from cdt.training.validation import make_validation

__all__ = [
    "Augment", "BadSteps", "Batch", "Ema", "NUM_LABELS", "Schedule", "StepOptions", "TrainState",
    "TrainStep", "ema", "fixed_decay", "half_life", "learning_rate", "make_augment", "make_init",
    "make_optimizer", "make_train_step", "make_validation", "power_function", "several_steps",
]  # fmt: skip
