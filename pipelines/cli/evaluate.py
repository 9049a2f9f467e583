"""The command ``statecast evaluate``: a rolling evaluation, or the evaluation of existing forecasts."""

from __future__ import annotations

from collections.abc import Mapping

from pipelines.cli import evaluate_options as e
from pipelines.cli import options as o
from pipelines.cli.console import Out
from pipelines.cli.evaluate_folders import evaluate_existing
from pipelines.cli.evaluate_rolling import evaluate_rolling
from pipelines.cli.settings import bounds, input_files, load_settings, parse_whole_numbers, paths
from pipelines.storage import store_of
from schemas.errors import ConfigError


def evaluate(
    data: o.Data = None,
    more_data: e.MoreData = None,
    wide: o.Wide = False,
    freq: o.Freq = None,
    skip_bad_files: o.SkipBad = None,
    train_rows: e.TrainRows = None,
    test_rows: e.TestRows = None,
    test_from: e.TestFrom = None,
    horizons: e.Horizons = None,
    normalize: e.Normalize = None,
    quantiles: e.Quantiles = None,
    name: e.RunName = None,
    tracking_uri: o.Store = None,
    forecasts: e.Forecasts = None,
    train_end: e.TrainEnd = None,
    report: e.Report = None,
    as_json: e.Json = False,
    config: o.Config = None,
    settings: o.Set = None,
) -> None:
    """Evaluate a forecaster on a file by rolling origin, or compare existing forecasts with the actuals.

    With --train-rows, the command trains on the first rows of DATA only. Then it steps the forecaster from
    the first row on, window by window as a stream does, and evaluates the forecasts for the test rows. Every
    member is evaluated on the same pairs of forecast and actual: the combination, the network alone, each
    expert, persistence and seasonal naive. Tables, plots and metrics are logged to an MLflow run.

    Without --train-rows, the command compares the forecasts in folders with the actuals, by horizon, beside
    persistence and seasonal naive. DATA must hold the actuals and enough rows before them. Its rows must
    become the same windows as in training, so pass the job file of the training (-c), or --freq and --set
    windows.aggregate=... if they were changed.

    Example: statecast evaluate etth2.csv --wide --freq 1h --horizons 1,24,48 --train-rows 2880
    --test-rows 3600:14400 --normalize train --report report.html

    Example: statecast evaluate weather.parquet --forecasts out --report report.html
    """
    rolling = {
        "--test-rows": test_rows, "--test-from": test_from, "--horizons": horizons, "--normalize": normalize,
        "--quantiles": quantiles, "--name": name,
    }  # fmt: skip
    folders = {"--forecasts": forecasts, "--train-end": train_end}
    _check_form(train_rows, rolling, folders)
    steps = None if horizons is None else parse_whole_numbers("--horizons", horizons)
    job = load_settings(
        config, settings, data__paths=paths([*(data or []), *(more_data or [])]),
        data__layout="wide" if wide else None, data__skip_bad_files=skip_bad_files, windows__freq=freq,
        network__horizon=max(steps) if steps else None,
        network__quantiles=None if quantiles is None else f"[{quantiles}]",
        mlflow__tracking_uri=tracking_uri,
    )  # fmt: skip
    test = _test_bounds(test_rows, test_from)
    out = Out(as_json)
    if report is not None:
        store_of(report.parent).check_writable()
    if train_rows is None:
        input_files(job)
        evaluate_existing(job, forecasts, train_end, report, out)
    else:
        steps = steps or tuple(sorted({1, job.network.horizon}))
        evaluate_rolling(job, steps, train_rows, test, normalize or "none", name or "evaluation", report, out)


def _test_bounds(test_rows: str | None, test_from: int | None) -> tuple[int | None, int | None]:
    """Return the range of test rows as row numbers ``[FIRST, STOP)``; None for a bound not given.

    Raises:
        ConfigError: both options are given, or --test-rows is not A:B.
    """
    if test_rows is None:
        return test_from, None
    if test_from is not None:
        raise ConfigError("--test-from and --test-rows both set the test rows: give one of them")
    return bounds("--test-rows", test_rows)


def _check_form(train_rows: int | None, rolling: Mapping[str, object], folders: Mapping[str, object]) -> None:
    """Raise ConfigError if an option has no effect on the requested kind of evaluation.

    Args:
        train_rows: value of --train-rows, which requests a rolling evaluation.
        rolling: values of the options of a rolling evaluation; None if an option is not given.
        folders: values of the options of an evaluation of existing forecasts.

    Raises:
        ConfigError: an option of the other kind of evaluation is given.
    """
    others = rolling if train_rows is None else folders
    wrong = [option for option, value in others.items() if value is not None]
    if not wrong:
        return
    if train_rows is None:
        raise ConfigError(f"{wrong[0]} is for a rolling evaluation: give --train-rows, too")
    raise ConfigError(
        f"{wrong[0]} is for existing forecasts and has no effect with --train-rows: leave one of them out"
    )
