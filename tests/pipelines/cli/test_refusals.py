"""Tests that invalid commands are refused with one line on stderr, before they write anything."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from forecaster.shards.shard import Shard
from pipelines.cli.app import run
from pipelines.state import snapshot_file
from pipelines.storage import store_of
from tests.fleets import forecaster
from tests.pipelines.cli.conftest import write_series


@dataclass
class WorkingFolder:
    """A working folder of good and bad files, and the captured output of commands in it."""

    folder: Path
    streams: pytest.CaptureFixture[str]

    def refused(self, command: str) -> tuple[int, str]:
        """Run a command that must be refused; return its exit code and its message, one line on stderr.

        The test fails if the command prints anything else, or adds or removes files.
        """
        before = sorted(self.folder.rglob("*"))
        code = run(command.split())
        captured = self.streams.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1, captured.err
        assert sorted(self.folder.rglob("*")) == before
        return code, captured.err.strip().removeprefix("error: ")


@pytest.fixture
def working_folder(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> WorkingFolder:
    monkeypatch.chdir(tmp_path)
    for module in ("sources.kafka.consumer", "sinks.kafka"):  # wait only 0.2 s for a broker
        monkeypatch.setattr(f"pipelines.{module}.ANSWER_LIMIT_S", 0.2)
    write_series(tmp_path / "good.csv", 60)
    shutil.copytree(model, tmp_path / "model")
    for name, text in {
        "png.csv": "\x89PNG\r\n\x1a\n",
        "empty.csv": "",
        "header.csv": "series_id,timestamp,value\n",
        "columns.csv": "a,b\n1,2\n",
        "words.csv": "series_id,timestamp,value\na,2013-01-01T00:00Z,much\n",
        "list.jsonl": "[1, 2]\n",
        "broken.parquet": "PAR1",
        "sheet.xlsx": "PK",
        "letter.docx": "PK",
        "bad.toml": "[network]\nhiden = 3\n",
        "worse.toml": "[network\n",
        "plain.toml": '[kafka.options]\n"sasl.password" = "open"\n',
        "no_env.toml": '[kafka.options]\n"sasl.password" = "$NO_SUCH_THING"\n',
        "no_option.toml": '[kafka.options]\n"no.such.option" = "1"\n',
    }.items():
        (tmp_path / name).write_text(text, encoding="latin-1")
    (tmp_path / "folder").mkdir()
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "shard-0000-of-0001.parquet").write_text("no Parquet")
    snapshot_file.write_shard(tmp_path / "half", Shard.cold(0, 2, forecaster().initial_state(), ()))
    return WorkingFolder(tmp_path, capsys)


REFUSED = [
    # invalid settings
    ("strean", 2, "No such command 'strean'. Did you mean 'stream', 'train', 'retrain'?; see statecast"),
    ("train good.csv --horizont 3", 2, "No such option: --horizont"),
    ("train good.csv --horizon", 2, "Option '--horizon' requires an argument"),
    ("train good.csv --horizon x", 2, "Invalid value for '--horizon'"),
    ("train good.csv --horizon -1", 2, "--horizon -1: must be 1 or more"),
    ("train good.csv --cell transformer", 2, '--cell "transformer": must be lstm, gru or rnn'),
    ("train good.csv --freq 5x", 2, "--freq \"5x\": '5x' is no duration"),
    ("train good.csv --set hidden=3", 2, "hidden: no such setting; did you mean network.hidden?"),
    (
        "train good.csv --set network.hiden=3",
        2,
        "network.hiden: no such setting; did you mean network.hidden?",
    ),
    ("train good.csv --set network.hidden=wide", 2, '--set network.hidden="wide": must be a whole number'),
    ("train good.csv --set hidden", 2, "--set hidden: write KEY=VALUE"),
    ("train good.csv --start yesterday", 2, '--start "yesterday": must be a time'),
    ("train good.csv --start 2013-02-01 --end 2013-01-01", 2, "--end must be later than --start"),
    ("train good.csv -c nowhere.toml", 2, "nowhere.toml: no such job file"),
    ("train good.csv -c bad.toml", 2, "bad.toml: network.hiden: no such setting"),
    ("train good.csv -c worse.toml", 2, "worse.toml: line 1"),
    ("backfill good.csv -m model --flat xml", 2, '--flat "xml": must be csv, parquet or jsonl'),
    ("backfill good.csv -m model --format xml", 2, '--format "xml": must be parquet or jsonl'),
    ("backfill good.csv -m model --shards 0", 2, "--shards 0: must be 1 or more"),
    ("backfill good.csv -m model --freq 1d", 2, "No such option: --freq"),
    ("backfill good.csv -m model -s windows.freq=1d", 2, "windows.freq is 1d, but model was trained with 1h"),
    ("stream good.csv -m model --speed -1", 2, "--speed -1.0: must be 0.0 or more"),
    ("stream good.csv -m model --watch", 2, "--watch takes one folder that exists"),
    ("stream -m model --watch", 2, "--watch takes one folder that exists"),
    ("stream good.csv -m model --source pigeon", 2, '--source "pigeon": must be replay, watch or kafka'),
    ("stream -m model --source kafka", 2, "--source kafka needs a topic: name it with --topic"),
    ("stream -m model --source kafka --topic t -s kafka.decoder=xml", 2, "kafka.decoder = xml"),
    ("stream -m model --source kafka --topic t -c plain.toml", 2, "sasl.password must be $NAME"),
    ("stream -m model --source kafka --topic t -c no_env.toml", 2, "the environment has no NO_SUCH_THING"),
    ("stream -m model --source kafka --topic t -c no_option.toml", 2, "kafka.options: No such configuration"),
    (
        "stream good.csv -m model --source kafka --topic t",
        2,
        "a stream of a topic reads no files: leave good.csv",
    ),
    ("stream good.csv -m model -s kafka.to_late=t", 2, "kafka.to_late needs kafka.to_topic"),
    ("stream good.csv -m model -s kafka.to_shadow=t", 2, "kafka.to_shadow needs kafka.to_topic"),
    (
        "stream good.csv -m model --to-topic t -s kafka.to_shadow=u",
        2,
        "--set kafka.to_shadow has no effect without stream.shadow",
    ),
    (
        "stream folder -m model --watch --source kafka --topic t",
        2,
        "--watch and --source kafka name two sources: leave one of them out",
    ),
    ("stream good.csv -m model --watch --source replay", 2, "--watch and --source replay name two sources"),
    ("stream good.csv -m model --topic t", 2, "--topic has no effect with --source replay"),
    ("stream good.csv -m model --bootstrap a:1", 2, "--bootstrap has no effect without --source kafka or"),
    (
        "stream good.csv -m model -s kafka.idle_s=3",
        2,
        "--set kafka.idle_s has no effect with --source replay",
    ),
    ("stream folder -m model --watch --speed 5", 2, "--speed has no effect with --source watch"),
    (
        "stream good.csv -m model -s stream.poll_s=5",
        2,
        "--set stream.poll_s has no effect with --source replay",
    ),
    ("stream -m model --source kafka --topic t --speed 5", 2, "--speed has no effect with --source kafka"),
    (
        "stream -m model --source kafka --topic t --skip-bad-files",
        2,
        "--skip-bad-files has no effect with --source kafka: leave it out, or use --source replay or",
    ),
    ("stream good.csv -m model -s kafka.to_format=arrow", 2, "--set kafka.to_format has no effect without"),
    ("stream good.csv -m model --to-topic t --flat csv", 2, "--flat has no effect with --to-topic"),
    (
        "stream good.csv -m model --flat csv -s windows.repair=2",
        2,
        "output.flat and windows.repair cannot be",
    ),
    ("stream good.csv -m model --to-topic t --format jsonl", 2, "--format has no effect with --to-topic"),
    (
        "stream good.csv -m model --runner prism -- --parallelism=x",
        2,
        "-- --parallelism=x: argument --parallelism",
    ),
    ("init model", 2, "model already exists"),
    ("init --example cars", 2, "--example cars: no such example; choose weather or flights"),
    ("ui --port 0", 2, "Invalid value for '--port'"),
    # invalid input files
    ("train", 3, "no input: name files or folders"),
    ("train nowhere.csv", 3, "nowhere.csv: no such file or folder"),
    ("train png.csv", 3, "png.csv: is not text in UTF-8"),
    ("train empty.csv", 3, "empty.csv: is empty"),
    ("train header.csv", 3, "header.csv: holds no rows"),
    (
        "train words.csv",
        3,
        "words.csv: no row can be used: 0 are outside the time bounds, 1 were rejected",
    ),
    ("train columns.csv", 3, "columns.csv: no column timestamp"),
    ("train list.jsonl", 3, "list.jsonl: line 1 is not a JSON object"),
    ("train broken.parquet", 3, "broken.parquet: is incomplete or not a Parquet file"),
    ("train sheet.xlsx", 3, "sheet.xlsx: is incomplete or not a spreadsheet"),
    ("train letter.docx", 3, "letter.docx: is of no known kind, .docx; only CSV"),
    ("train folder", 3, "folder: no CSV, Parquet, JSON lines or Excel files"),
    ("train good.csv --end 2012-01-01", 3, "good.csv: no row can be used: 180 are outside the time bounds"),
    ("train empty.csv --skip-bad-files", 3, "no file is left to read"),
    ("backfill header.csv -m model", 3, "the files hold no rows"),
    ("backfill good.csv png.csv -m model", 3, "png.csv: is not text in UTF-8"),
    ("backfill good.csv -m model --state nowhere", 3, "nowhere holds no state table"),
    (
        "backfill good.csv -m model --state torn",
        3,
        "torn/shard-0000-of-0001.parquet: not a readable Parquet file",
    ),
    (
        "stream good.csv -m model --resume --state torn",
        3,
        "torn/shard-0000-of-0001.parquet: not a readable Parquet file",
    ),
    ("backfill good.csv -m model --state half", 3, "half: needs one snapshot of each of its 2 shards"),
    ("stream good.csv -m model --state half", 3, "half: needs one snapshot of each of its 2 shards"),
    ("evaluate good.csv -f folder", 3, "folder: no forecasts here"),
    ("train good.csv --sweep 0", 2, "Invalid value for '--sweep'"),
    ("train good.csv --save-state model", 6, "--save-state model: is not an empty folder"),
    ("train good.csv --save-state ftp://a/b", 2, "ftp://: not a store that a job can write to"),
    ("train s3://b/x.csv", 2, 'DATA "s3://b/x.csv": must be a file or folder on this machine'),
    ("train -s data.paths=['s3://b/x']", 2, "must be a file or folder on this machine"),
    ("train good.csv -s covariates.static=s3://b/x", 2, "must be a file or folder on this machine"),
    ("train good.csv -c s3://b/x.toml", 2, "s3://b/x.toml is an address"),
    ("label s3://b/x.csv", 2, "s3://b/x.csv is an address"),
    ("evaluate good.csv --data s3://b/x.csv", 2, "must be a file or folder on this machine"),
    ("evaluate good.csv --report s3://b/report.html", 2, "s3://b/report.html is an address"),
    ("state export folder s3://b/x", 2, "s3://b/x is an address"),
    ("init s3://b/x.toml", 2, "s3://b/x.toml is an address"),
    ("demo -o s3://b/x", 2, "s3://b/x is an address"),
    (
        "stream good.csv -m model --runner prism -- --parallelism 4 b.csv",
        2,
        "b.csv: is not the value of a Beam option",
    ),
    ("init new.toml -s mlflow.tracking_uri=http://a:b@c", 2, "http://***@c: holds a name or a password"),
    ("evaluate good.csv", 3, "out: no forecasts here"),
    (
        "stream -m model --source kafka --topic t --bootstrap 127.0.0.1:9",
        3,
        "127.0.0.1:9: no Kafka broker answers there",
    ),
    # models and stores that are missing, are invalid, or do not answer
    ("backfill good.csv", 4, "there is no MLflow store at"),
    ("backfill good.csv -m ./nowhere", 4, "./nowhere is not a folder with a saved forecaster"),
    ("backfill good.csv -m a/b/c", 4, "'a/b/c' names no model"),
    ("promote tiny/1", 4, "there is no MLflow store at"),
    ("train good.csv --register a/b", 4, "'a/b' cannot name a model"),
    ("train good.csv --tracking-uri folder", 4, "'folder' is not an MLflow store"),
    ("train good.csv --tracking-uri sqlite:///folder", 4, "is a folder: name a file"),
    ("train good.csv --tracking-uri sqlite:///words.csv", 4, "words.csv is not an SQLite database"),
    ("train good.csv --tracking-uri sqlite:////proc/runs.db", 4, "/proc/runs.db cannot be written"),
    ("train good.csv --tracking-uri http://127.0.0.1:9", 4, "no MLflow server answers at http://127.0.0.1:9"),
    ("ui --tracking-uri sqlite:////proc/runs.db", 4, "/proc/runs.db cannot be written"),
    # topics, folders and files that cannot be written to, and a folder that is not empty
    (
        "stream good.csv -m model --to-topic t --bootstrap 127.0.0.1:9",
        6,
        "127.0.0.1:9: no Kafka broker answers there",
    ),
    ("backfill good.csv -m model -o good.csv", 6, "good.csv is a file, not a folder"),
    ("backfill good.csv -m model -o /proc/nowhere/out", 6, "/proc/nowhere/out: cannot write here"),
    ("evaluate good.csv --report good.csv/report.html", 6, "good.csv is a file, not a folder"),
    ("init /proc/statecast.toml", 6, "/proc/statecast.toml: cannot be written"),
    ("demo -o good.csv", 6, "good.csv is a file, not a folder"),
    ("demo -o model", 6, "model is not empty, and no demo wrote it"),
]


@pytest.mark.parametrize(("command", "code", "line"), REFUSED, ids=[command for command, *_ in REFUSED])
def test_invalid_commands_are_refused_in_one_line(
    working_folder: WorkingFolder, command: str, code: int, line: str
) -> None:
    exit_code, message = working_folder.refused(command)
    assert line in message
    assert exit_code == code


def test_unknown_models_versions_aliases_and_runs_are_refused(
    working_folder: WorkingFolder, trained: tuple[str, dict[str, Any]]
) -> None:
    store = f"--tracking-uri {trained[0]}"
    assert "did you mean tiny?" in working_folder.refused(f"backfill good.csv -m tyni {store}")[1]
    for ref in ("tiny/7", "tiny@challenger"):
        code, message = working_folder.refused(f"backfill good.csv -m {ref} {store}")
        assert (code, message[: len(ref)]) == (4, ref)
        assert "tiny has versions 1 and aliases champion" in message
    code, message = working_folder.refused(f"backfill good.csv -m {'0' * 32} {store}")
    assert (code, message.startswith(f"no run {'0' * 32} is in")) == (4, True)
    assert working_folder.refused(f"promote tiny/2 {store}")[0] == 4


def test_a_second_job_on_an_output_folder_is_refused(working_folder: WorkingFolder) -> None:
    with store_of(working_folder.folder / "out").locked():
        for command in ("backfill good.csv -m model", "stream good.csv -m model --resume --json"):
            code, message = working_folder.refused(command)
            assert code == 6
            assert "out: another job, process" in message
            assert "is writing here: wait for its end" in message


def test_the_error_for_a_missing_engine_names_the_fix(
    working_folder: WorkingFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.cli.engine.find_prism", lambda: None)
    for job in ("stream", "backfill"):
        code, message = working_folder.refused(f"{job} good.csv -m model --runner prism")
        assert code == 5
        assert "run `statecast doctor --fix`" in message
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    code, message = working_folder.refused("stream good.csv -m model --flink-master [local]")
    assert code == 5
    assert "Java is not installed" in message


@pytest.mark.parametrize("job", ["stream", "backfill"])
@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            "--runner in-process -- --parallelism=2",
            "--parallelism=2: the in-process runner takes no Beam options: name --runner",
        ),
        (
            "--runner prism --flink-master [local]",
            "--flink-master [local] and --runner prism name two runners: leave one of them out",
        ),
        ("--runner prism -- --runner=DirectRunner", "--runner=DirectRunner: name the engine before the --"),
        ("-- --flink_master=a:1", "--flink_master=a:1: name it before the --: --flink-master HOST:PORT"),
        ("--runner prism -- --flink-master=a:1", "--flink-master=a:1: name it before the --"),
        ("--runner spark", '--runner "spark": must be auto, in-process, prism or flink'),
        ("--flink-master http://a:1/", 'flink-master "http://a:1/": must be [local] or HOST:PORT'),
        ("--runner flink -s jobs.flink_workers=a", 'jobs.flink_workers="a": must be HOST:PORT'),
    ],
)
def test_the_error_for_invalid_engine_options_names_the_fix(
    working_folder: WorkingFolder, job: str, options: str, line: str
) -> None:
    code, message = working_folder.refused(f"{job} good.csv -m model {options}")
    assert code == 2
    assert line in message


def test_a_master_address_where_no_flink_answers_is_refused(
    working_folder: WorkingFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.cli.engine.find_java", lambda: Path("java"))
    monkeypatch.setattr("pipelines.cli.engine.job_server", lambda: (Path("jars"), "a job server"))
    for job in ("stream", "backfill"):
        code, message = working_folder.refused(f"{job} good.csv -m model --flink-master 127.0.0.1:1")
        assert code == 5
        assert "no Flink answers at 127.0.0.1:1" in message
        assert "name its REST address, host:port, or [local]" in message
    monkeypatch.setattr("pipelines.runners.flink.ask", lambda master, path: {"version": 3})
    code, message = working_folder.refused("stream good.csv -m model --flink-master 127.0.0.1:1")
    assert (code, message[:38]) == (5, "the server at 127.0.0.1:1 is not Flink")


def test_a_full_disk_and_a_bug_each_print_a_one_line_error(
    working_folder: WorkingFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device", "out/forecasts/x")

    def broken(*arguments: Any) -> None:
        raise KeyError("oops\n")

    monkeypatch.setattr("pipelines.settings.job_file.load_config", full)
    assert working_folder.refused("train good.csv") == (6, "out/forecasts/x: No space left on device")
    monkeypatch.setattr("pipelines.settings.job_file.load_config", broken)
    code, message = working_folder.refused("train good.csv")
    assert code == 1
    assert "KeyError" in message
    assert "STATECAST_LOG=DEBUG" in message
    monkeypatch.setenv("STATECAST_LOG", "DEBUG")
    with pytest.raises(KeyError):
        run(["train", "good.csv"])
