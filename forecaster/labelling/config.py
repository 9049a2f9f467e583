"""Settings of a label network: its cells and layers, its scaling of values, and its training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from forecaster.setting_types import Settings, SettingsConflict

Scaling = Literal["train", "series", "running"]


class LabelConfig(Settings):
    """Settings of a network that labels sequences or their steps, and of its training."""

    cell: Literal["lstm", "gru", "rnn"] = Field(
        "lstm", description="recurrent cell of the network: lstm, gru or rnn"
    )
    hidden: int = Field(64, ge=1, le=4096, description="number of units in each recurrent layer")
    layers: int = Field(1, ge=1, le=16, description="number of stacked recurrent layers")
    pooling: Literal["last", "mean"] = Field(
        "last",
        description="compute a sequence's label from its last hidden state (last), or from their mean (mean)",
    )
    scaling: Scaling | None = Field(
        None,
        description="scale values by mean and spread of the training rows (train), of each sequence alone "
        "(series), or of the steps so far (running); unset: train for sequences, running for steps",
    )
    epochs: int = Field(
        100, ge=1, description="most passes over the training rows; fewer if the loss stops falling"
    )
    patience: int = Field(15, ge=1, description="epochs without a lower validation loss before training ends")
    batch: int = Field(16, ge=1, description="sequences per gradient step")
    segment: int = Field(
        64, ge=2, description="steps per back-propagated segment; the state is carried across segments"
    )
    learning_rate: float = Field(
        3e-3, gt=0, le=1, description="of Adam, at the start; halved while the validation loss does not fall"
    )
    weight_decay: float = Field(1e-4, ge=0, description="decoupled weight decay")
    dropout: float = Field(0.2, ge=0, lt=1, description="dropout of the hidden states before the head")
    balance: float = Field(
        0.5,
        ge=0,
        le=1,
        description="class weights: 0 equal, 1 so large that rare classes count as much as frequent ones",
    )
    validation: float = Field(
        0.2, gt=0, lt=1, description="share of sequences, or of time, held out to decide when to stop"
    )
    test: float = Field(
        0.2, ge=0, lt=1, description="share of sequences, or of the last time, held out for the final scores"
    )
    seed: int = Field(
        0,
        ge=0,
        description="seed of the random numbers: the split, the first weights and the order of batches",
    )
    threads: int = Field(1, ge=0, description="torch threads; 0 leaves torch's own choice")

    @model_validator(mode="after")
    def _leaves_some(self) -> LabelConfig:
        if self.validation + self.test >= 1:
            raise SettingsConflict(
                "{} and {} leave nothing to learn from: make them smaller", "validation", "test"
            )
        return self
