"""Run a labelling job: train on labelled rows, and log scores, plots and the model to an MLflow run."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from forecaster.arrays import Floats32, Ints
from forecaster.labelling import plots as label_plots
from forecaster.labelling import scores as judge
from forecaster.labelling.config import LabelConfig
from forecaster.labelling.model import Labeller
from forecaster.labelling.sequences import TEST, UNKNOWN, VALIDATION, Sequences, build_sequences
from forecaster.labelling.training import Epoch, TrainedLabeller, train_labeller
from forecaster.registry.registry import Run
from forecaster.shards.counts import by_kind
from forecaster.threads import compute_threads
from pipelines.jobs.progress import SILENT, Progress
from pipelines.jobs.registry import open_registry
from pipelines.labelling.rows import LabelColumns, read_labelled
from pipelines.settings.mlflow_config import MlflowConfig
from pipelines.storage import write_whole
from schemas import quarantine


@dataclass(frozen=True)
class LabelOutcome:
    """The outcome of a labelling job.

    Attributes:
        run_id: id of the MLflow run.
        model_version: version of the labeller, which is ``model/labeller.safetensors`` in the run's files.
        of: ``sequence`` or ``step``: what a label belongs to.
        channels, classes: names of the values and of the labels.
        background: label of ordinary steps; empty for sequences.
        series, steps: number of series, and number of steps of the longest series.
        freq_s: seconds between two steps; 0 for sequences.
        scored_part: the part that was scored: ``test``, or ``validation`` if there is no test part.
        scores: scores on the part ``scored_part``, by name.
        kinds: for steps, rows of ``label, found, of``: for each kind of anomaly, how many of its ``of``
            anomalies were found at one false alarm per series and week.
        history: epochs, see `forecaster.labelling.training.TrainedLabeller`.
        rows_in, used, quarantined, duplicates: counts of rows: all, and by outcome.
        unlabelled: number of valid rows without a label, which are input of the network, but not trained on.
        notices: lines to show to the user.
    """

    run_id: str
    model_version: str
    of: str
    channels: tuple[str, ...]
    classes: tuple[str, ...]
    background: str
    series: int
    steps: int
    freq_s: int
    scored_part: str
    scores: dict[str, float]
    kinds: list[dict[str, Any]]
    history: list[Epoch]
    rows_in: int
    used: int
    quarantined: int
    duplicates: int
    unlabelled: int
    notices: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the object that ``--json`` prints."""
        found = {"judged" if key == "scored_part" else key: value for key, value in vars(self).items()}
        return {"epochs": found.pop("history"), **found}


@compute_threads(1)
def run_labelling(
    paths: Sequence[str | Path],
    columns: LabelColumns,
    config: LabelConfig,
    *,
    mlflow: MlflowConfig,
    name: str,
    freq_s: int | None = None,
    max_quarantined: float = 0.1,
    output: Path | None = None,
    progress: Progress = SILENT,
) -> LabelOutcome:
    """Train a labeller on labelled files, and log its settings, scores, plots and model to an MLflow run.

    Args:
        paths: files or folders of long files.
        columns: names of the columns of the files.
        config: shape and training of the network.
        mlflow: store of the run.
        name: name of the run.
        freq_s: seconds between two steps if labels are per step; None takes the most frequent distance
            between the times of two rows.
        max_quarantined: a larger share of quarantined rows ends the job before it trains.
        output: folder for the model and its label for every row; None writes neither.
        progress: reports the progress.

    Raises:
        StatecastError: a file, a setting or the store cannot be used; the message is one line.
    """
    registry = open_registry(mlflow)
    read = read_labelled(paths, columns, progress.rows)
    rows = len(read.rows) + len(read.quarantined)
    quarantine.check_share(by_kind(read.quarantined), rows, max_quarantined, read.quarantined)
    gathered = build_sequences(read.rows, read.channels, freq_s)
    sequences = gathered.sequences
    with registry.start_run(name, config.model_dump(), {"statecast.cell": config.cell}) as run:
        run.log_dataset(read.rows, [str(path) for path in paths])
        if len(read.quarantined):
            run.log_frame(read.quarantined, "quarantine.parquet")
        trained = train_labeller(sequences, config, gathered.split, progress.log_epoch_in(run))
        with tempfile.TemporaryDirectory() as folder:
            run.log_file(trained.labeller.save(Path(folder)), "model")
        probabilities = trained.labeller.probabilities(sequences)
        if output is not None:
            write_labels(output, trained.labeller, sequences, probabilities)
        part = TEST if ((trained.parts == TEST) & (sequences.labels != UNKNOWN)).any() else VALIDATION
        found = _evaluate(trained, sequences, probabilities, part)
        run.log_figure(lambda: label_plots.loss_figure(trained.history), "plots/loss.png")
        _log(run, trained.labeller, found, "test" if part == TEST else "validation")
        run.send()
    task = trained.labeller.task
    return LabelOutcome(
        run_id=run.run_id,
        model_version=trained.labeller.version,
        of=task.of,
        channels=task.channels,
        classes=task.classes,
        background=task.classes[task.background] if task.of == "step" else "",
        series=len(sequences.series_ids),
        steps=len(sequences.values),
        freq_s=task.freq_s,
        scored_part="test" if part == TEST else "validation",
        scores=found.scores,
        kinds=found.kinds.to_dicts(),
        history=trained.history,
        rows_in=rows,
        used=len(read.rows) - gathered.duplicates,
        quarantined=len(read.quarantined),
        duplicates=gathered.duplicates,
        unlabelled=int(read.rows["label"].null_count()),
        notices=(
            *read.notices,
            *quarantine.notice(read.quarantined, "quarantine.parquet among the run's files"),
            *run.notices,
        ),
    )


@dataclass(frozen=True)
class _Scores:
    """The scores of a labeller on the test data or the validation data, and the data for their plots."""

    scores: dict[str, float]
    confusion: Ints
    kinds: pl.DataFrame
    curve: judge.Curve | None
    base_rate: float


def _evaluate(trained: TrainedLabeller, sequences: Sequences, probabilities: Floats32, part: int) -> _Scores:
    """Return a labeller's scores, and the data of its plots, for one part of the data, TEST or VALIDATION."""
    task, classes = trained.labeller.task, len(sequences.classes)
    in_part = (trained.parts == part) & (sequences.labels != UNKNOWN)
    labels = sequences.labels[in_part]
    scores = judge.class_scores(labels, probabilities[in_part])
    counts = judge.confusion(labels, probabilities[in_part].argmax(axis=1), classes)
    no_kinds = pl.DataFrame(schema={"label": pl.String, "found": pl.Int64, "of": pl.Int64})
    if task.of == "sequence":
        return _Scores(scores, counts, no_kinds, None, 0.0)
    alarm = trained.labeller.alarm(probabilities)
    in_validation = (trained.parts == VALIDATION) & (sequences.labels != UNKNOWN)
    anomalous = labels != task.background
    curve = judge.precision_recall(sequences.labels[in_validation] != task.background, alarm[in_validation])
    scores |= judge.alarm_scores(anomalous, alarm[in_part], judge.best_f1_threshold(curve))
    # Hide the labels outside this part, because anomalies of other parts must not count. Of an anomaly that
    # reaches into another part, only the steps in this part count.
    raised = (alarm > task.threshold) & in_part
    events = judge.events(np.where(in_part, sequences.labels, UNKNOWN), raised, task.background)
    weeks = (labels == task.background).sum() * task.freq_s / (7 * 86_400)
    false_alarms = int((raised & (sequences.labels == task.background)).sum())
    scores |= {
        "recall_at_one_false_alarm_a_week": float(events.found.mean()) if len(events.found) else float("nan"),
        "false_alarms_a_week": float(false_alarms / weeks) if weeks else float("nan"),
    }
    kinds = [
        {
            "label": name,
            "found": int(events.found[events.label == k].sum()),
            "of": int((events.label == k).sum()),
        }
        for k, name in enumerate(sequences.classes)
        if (events.label == k).any()
    ]
    return _Scores(
        scores,
        counts,
        pl.DataFrame(kinds, schema=no_kinds.schema),
        judge.precision_recall(anomalous, alarm[in_part]),
        float(anomalous.mean()),
    )


def _log(run: Run, labeller: Labeller, found: _Scores, part: str) -> None:
    """Log a labeller's scores and plots to the run; ``part`` is ``test`` or ``validation``."""
    task, curve = labeller.task, found.curve
    with run.notice_on_error("the scores"):
        run.log_metrics({f"{part}/{k}": v for k, v in found.scores.items() if np.isfinite(v)})
    run.log_figure(lambda: label_plots.confusion_figure(found.confusion, task.classes), "plots/confusion.png")
    if curve is not None and len(curve.recall):
        run.log_figure(
            lambda: label_plots.precision_recall_figure(
                curve.recall, curve.precision, found.scores["average_precision"], found.base_rate
            ),
            "plots/precision_recall.png",
        )
    if len(found.kinds):
        columns = [found.kinds[name].to_list() for name in ("label", "found", "of")]
        run.log_figure(lambda: label_plots.found_figure(*columns), "plots/found.png")
        with run.notice_on_error("found.json"):
            run.log_frame(found.kinds, "found.json")


def write_labels(
    folder: Path, labeller: Labeller, sequences: Sequences, probabilities: Floats32
) -> tuple[Path, Path]:
    """Write a labeller, and ``labels.parquet`` with its predictions for sequences or steps; return the paths.

    The columns are ``series_id``; for steps ``timestamp`` (the beginning of the window) and ``alarm``
    (whether the alarm value is above the model's threshold); ``label`` (null if unknown); ``called`` (the
    predicted label); and a probability for each class, such as ``p_normal``.
    """
    classes = pl.Series(labeller.task.classes)
    is_present = sequences.step_mask() if sequences.is_per_step else np.ones(len(sequences.series_ids), bool)
    shown = probabilities[is_present]
    given = sequences.labels[is_present]
    frame = pl.DataFrame(
        {
            "label": classes.gather(np.maximum(given, 0)).set(pl.Series(given == UNKNOWN), None),
            "called": classes.gather(shown.argmax(axis=1)),
            **{f"p_{name}": shown[:, k] for k, name in enumerate(labeller.task.classes)},
        }
    )
    ids = pl.Series("series_id", sequences.series_ids)
    if sequences.is_per_step:
        row, column = np.nonzero(is_present)
        at = (sequences.start[column] + row) * sequences.freq_s
        keys = [
            ids.gather(column),
            pl.Series("timestamp", at * 1_000_000).cast(pl.Datetime("us", "UTC")),
            pl.Series("alarm", labeller.alarm(shown) > labeller.task.threshold),
        ]
        frame = pl.DataFrame(keys).hstack(frame).sort("series_id", "timestamp")
    else:
        frame = frame.insert_column(0, ids)
    model, path = labeller.save(folder), folder / "labels.parquet"
    write_whole(path, frame.write_parquet, kept=True)
    return model, path
