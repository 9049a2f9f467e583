"""Tests that no command writes a secret to its output, its logs, its files, MLflow or a state table."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.cli import app
from pipelines.cli.app import run
from tests.fleets import forecaster
from tests.pipelines.cli.conftest import write_series
from tests.servers import Server, basic, mlflow_server

MARK = "s3cr3t-m4rk"
LOGIN = f"someone:{MARK}"
TINY = (
    "-s network.hidden=4 -s network.layers=1 -s network.horizon=2 -s training.epochs=1 "
    "-s training.refit=false "
    "-s network.lags=[1] -s network.ring=24"
)

COMMANDS = {
    "train": [
        f"train rows.csv -c job.toml {TINY} --register tiny --save-state states",
        f"train rows.csv -c job.toml {TINY} --register tiny --seed 1",
    ],
    "promote": [
        "promote tiny/1 -c job.toml --alias other",
        "promote tiny/2 -c job.toml --alias other",
        "promote tiny/1 -c job.toml",
        "promote tiny/7 -c job.toml",
        "promote tiny/1 rows.csv -c job.toml --if-better",
    ],
    "forecast": ["forecast rows.csv -c job.toml -m tiny", "forecast no.csv -c job.toml -m tiny"],
    "runs": ["runs -c job.toml --json"],
    "models": ["models -c job.toml"],
    "register": ["register saved -c job.toml --register saved", "register nowhere -c job.toml"],
    "sync": ["sync -c job.toml"],
    "compare": ["compare tiny/1 tiny/1 rows.csv -c job.toml", "compare tiny/1 tiny/7 rows.csv -c job.toml"],
    "retrain": ["retrain tiny rows.csv -c job.toml --json"],
    "rollback": ["rollback tiny -c job.toml --alias other"],
    "backfill": [
        "backfill rows.csv -c job.toml -m tiny -o past --json",
        "backfill no.csv -c job.toml -m tiny",
    ],
    "stream": [
        "stream rows.csv -c job.toml -m tiny -o out --runner in-process --metrics-port 0",
        "stream -c job.toml -m tiny --source kafka --topic t -s kafka.decoder=avro --bootstrap 127.0.0.1:9",
        "stream rows.csv -c echoing.toml -m tiny --source kafka --topic t",
    ],
    "plot": ["plot past", "plot s3://U@bucket/x"],
    "show": ["state show out/state", "quarantine show out"],
    "export": ["state export past/state packed.parquet"],
    "import": ["state import packed.parquet unpacked"],
    "evaluate": [
        f"evaluate rows.csv -c job.toml {TINY} --train-rows 80 --report report.html",
        "evaluate rows.csv -c job.toml -f past --json",
    ],
    "label": ["label labels.csv --tracking-uri URI --epochs 1 --hidden 4 -o labelled"],
    "cold-start": ["cold-start -c job.toml -m tiny --series rows.csv --at 2013-01-01"],
    "doctor": ["doctor -c job.toml --json"],
    "ui": ["ui -c job.toml"],
    # Name a missing folder, because the command then ends at once with an error. With an existing output
    # folder, the dashboard would run until a signal ends it.
    "dashboard": ["dashboard nowhere"],
    "init": ["init new.toml -s mlflow.tracking_uri=URI", "init newer.toml -s kafka.registry=URI"],
    # Run only demos that are refused, because a complete demo takes minutes.
    "demo": ["demo -o URI", "demo -o job.toml"],
}
REFUSED = [
    "promote tiny/1 --tracking-uri ftp://U@host",
    "promote tiny/1 --tracking-uri U@host",
    "promote tiny/1 --tracking-uri http://U@",
    "promote tiny/1 --tracking-uri http://U@127.0.0.1:9",
    "promote tiny/1 --tracking-uri http://U@127.0.0.1:x",
    "promote tiny/1 --tracking-uri http://U2@ADDRESS",
    "promote tiny/1 --tracking-uri postgresql+nothing://U@127.0.0.1:9/runs",
    "train rows.csv --tracking-uri http://U@127.0.0.1:9",
    "train http://U@host/rows.csv",
    "train rows.csv --save-state s3://U@bucket/x",
    "train rows.csv -c http://U@host/job.toml",
    "train rows.csv -s kafka.options=U",
    "train rows.csv -s kafka.options={'sasl.password'='U'}",
    "train rows.csv -c typed.toml",
    "train rows.csv -s mlflow={'tracking_uri'='http://U@host'}",
    "train rows.csv -c whole.toml",
    "backfill rows.csv -m http://U@host/model",
    "backfill rows.csv -m tiny -o s3://U@bucket/x",
    "stream rows.csv -m tiny --state s3://U@bucket/x",
]


@pytest.fixture(scope="module")
def folder_and_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Server]]:
    """Write rows, a model and job files to a folder, and run an MLflow server that requires a password."""
    folder = tmp_path_factory.mktemp("folder")
    with mlflow_server(tmp_path_factory.mktemp("server"), lambda login: login == basic(LOGIN)) as server:
        uri = f"http://{LOGIN}@{server.address}"
        write_series(folder / "rows.csv", 120)
        labels = [
            f"s{k},2013-01-{day:02},{k + day / 9},{'ab'[k % 2]}" for k in range(12) for day in range(1, 6)
        ]
        forecaster().save(folder / "saved")
        (folder / "labels.csv").write_text("\n".join(["series_id,time,x,label", *labels]))
        (folder / "job.toml").write_text(
            f'[mlflow]\ntracking_uri = "{uri}"\n[kafka]\nregistry = "{uri}"\n'
            'options = { "sasl.password" = "$MARKED", "ssl.key.password" = "$MARKED" }\n'
        )
        # The Kafka client rejects this value with an error that contains the value.
        (folder / "echoing.toml").write_text('[kafka.options]\n"security.protocol" = "$MARKED"\n')
        (folder / "whole.toml").write_text(f'kafka = "{MARK}"\nmlflow = ["{MARK}"]\n')
        (folder / "typed.toml").write_text(f'[kafka]\nregistry = ["{MARK}"]\n')
        yield folder, server


@pytest.fixture
def _secrets_in_environment(folder_and_server: tuple[Path, Server], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder_and_server[0])
    monkeypatch.setenv("COLUMNS", "400")
    for name in ("MARKED", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, MARK)


def files_with_secret(folder: Path) -> list[str]:
    """Return the files that contain the secret, except for the job files that set it."""
    return [
        str(path)
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".toml" and MARK.encode() in path.read_bytes()
    ]


@pytest.mark.usefixtures("_secrets_in_environment")
def test_no_command_shows_a_secret(
    folder_and_server: tuple[Path, Server],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder, server = folder_and_server
    assert set(COMMANDS) == set(app._COMMANDS) | set(app._TABLES), "COMMANDS must list every command"
    codes = {}
    for line in [line for lines in COMMANDS.values() for line in lines]:
        with caplog.at_level(logging.DEBUG):
            codes[line] = run(line.replace("URI", f"http://{LOGIN}@{server.address}").split())
        captured = capsys.readouterr()
        for text in (captured.out, captured.err, caplog.text):
            assert MARK not in text, line
        caplog.clear()
    for line in [
        lines[0]
        for name, lines in COMMANDS.items()
        if name not in ("ui", "dashboard", "init", "cold-start", "demo")
    ]:
        assert codes[line] == 0, (line, codes)
    assert {basic(LOGIN)} == set(server.logins)
    assert files_with_secret(server.folder) == []
    assert files_with_secret(folder) == []


@pytest.mark.usefixtures("_secrets_in_environment")
@pytest.mark.parametrize("command", REFUSED)
def test_no_refusal_shows_a_secret(
    folder_and_server: tuple[Path, Server], capsys: pytest.CaptureFixture[str], command: str
) -> None:
    line = command.replace("U2@ADDRESS", f"{LOGIN}x@{folder_and_server[1].address}").replace(
        "U@", f"{LOGIN}@"
    )
    code = run([word.replace("'U'", f"'{MARK}'").replace("=U", f"={MARK}") for word in line.split()])
    captured = capsys.readouterr()
    assert code in (2, 3, 4, 6), captured.err
    assert MARK not in captured.out + captured.err
    assert captured.err.count("\n") == 1
