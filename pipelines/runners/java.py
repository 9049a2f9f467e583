"""Find Java; download the jars of Flink, and of a Kafka broker for the tests, once for each version.

Only Flink and tests with a Kafka broker need Java. ``pom.xml`` beside this file contains the versions.

``python -m pipelines.runners.java setup`` downloads missing jars with Maven, and Flink with uv or pip.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from functools import cache
from pathlib import Path
from typing import Final

from forecaster.durable import move_whole
from pipelines.runners.prism_binary import beam_version, cache_dir, package_installer
from schemas.errors import EngineError

_POM: Final = Path(__file__).with_name("pom.xml")
_POM_NAMESPACE: Final = {"m": "http://maven.apache.org/POM/4.0.0"}
_MIN_JAVA: Final = 17
_LIMIT_S: Final = 900.0

SETUP: Final = "run `make java`, or `python -m pipelines.runners.java setup`"

# Flink 1.19 and Beam's runner access private parts of Java, which Java 17 forbids without these options.
JAVA_OPEN_OPTIONS: Final = tuple(
    f"--add-opens=java.base/{package}=ALL-UNNAMED"
    for package in (
        "java.lang", "java.lang.invoke", "java.lang.reflect", "java.io", "java.net", "java.nio", "java.text",
        "java.time", "java.util", "java.util.concurrent", "java.util.concurrent.atomic",
        "java.util.concurrent.locks", "sun.net.util", "sun.nio.ch",
    )
)  # fmt: skip


@cache
def versions() -> dict[str, str]:
    """Return the versions of the Java software to download, by name, such as ``flink.version``."""
    properties = ElementTree.parse(_POM).find("m:properties", _POM_NAMESPACE)
    assert properties is not None
    return {child.tag.rpartition("}")[2]: (child.text or "").strip() for child in properties}


def find_java() -> Path:
    """Return the path of the Java in JAVA_HOME, or of the Java on PATH if JAVA_HOME is not set.

    Raises:
        EngineError: Java is not installed, or it is too old.
    """
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=str(Path(home) / "bin") if home else None)
    if found is None:
        where = f"in JAVA_HOME={home}" if home else "on PATH"
        raise EngineError(
            f"Java is not installed ({where}): install Java {_MIN_JAVA} (Debian: openjdk-17-jre-headless)"
        )
    version = _java_version(found)
    if version < _MIN_JAVA:
        raise EngineError(f"Java {version} ({found}) is too old: install Java {_MIN_JAVA}, or set JAVA_HOME")
    return Path(found)


@cache
def _java_version(java: str) -> int:
    result = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60)
    found = re.search(r'version "(\d+)', result.stderr + result.stdout)
    if result.returncode or found is None:
        raise EngineError(f"{java} does not run: install Java {_MIN_JAVA}, or set JAVA_HOME")
    return int(found[1])


def find_maven() -> Path:
    """Return the path of the Maven on PATH.

    Raises:
        EngineError: Maven is not installed.
    """
    found = shutil.which("mvn")
    if found is None:
        raise EngineError("Maven is not installed: install it (Debian: apt-get install maven)")
    return Path(found)


def job_server() -> tuple[Path, str]:
    """Return the folder of the job server's jars, and a description of the jars that contains their version.

    The jars are Beam's released job server if it is installed, or else the combination in ``pom.xml``.

    Raises:
        EngineError: the job server is not set up; the message contains the command that sets it up.
    """
    for folder, description in _job_servers():
        if folder.is_dir():
            return folder, description
    raise EngineError(f"Flink's job server is not set up: {SETUP}")


def flink_home() -> Path:
    """Return the folder of the Flink distribution; it is needed only to start a cluster.

    Raises:
        EngineError: the distribution is not set up.
    """
    return _existing_folder(_flink_folder(), "Flink")


def kafka_jars() -> Path:
    """Return the folder of the Kafka broker's jars.

    Raises:
        EngineError: the jars are not set up.
    """
    return _existing_folder(_kafka(), "Kafka")


def setup_job_server() -> Path:
    """Return the folder of the job server's jars; download them if they are missing.

    Downloads Beam's released jar, or the combination in ``pom.xml`` if the registry lacks that jar.

    Raises:
        EngineError: the jars cannot be downloaded.
    """
    (released, _), (pinned, _) = _job_servers()
    if released.is_dir() or pinned.is_dir():
        return job_server()[0]
    try:
        return _copy_jars("released-job-server", released, f"-Dbeam.version={beam_version()}")
    except EngineError:
        print("the registry lacks Beam's released job server: using the pinned one", file=sys.stderr)
    return _copy_jars("job-server", pinned)


def setup_kafka() -> Path:
    """Return the folder of the Kafka broker's jars; download them if they are missing.

    Raises:
        EngineError: the jars cannot be downloaded.
    """
    return _copy_jars("kafka", _kafka())


def setup_flink() -> Path:
    """Return the folder of the Flink distribution; if it is missing, download the package that contains it.

    Raises:
        EngineError: the package cannot be downloaded.
    """
    target = _flink_folder()
    if target.is_dir():
        return target
    installer = package_installer()
    if installer is None:
        raise EngineError("Flink cannot be fetched: neither uv nor pip is installed; install one of them")
    package = f"apache-flink-libraries=={versions()['flink.version']}"
    with _temporary_folder_beside(target) as work:
        folder = str(Path(work) / "package")
        _run([*installer, "--no-deps", "--target", folder, package], f"fetching {package}, about 230 MB")
        _move_into_place(Path(folder) / "pyflink", target)
    return target


def _job_servers() -> tuple[tuple[Path, str], tuple[Path, str]]:
    """Return folder and description of two job servers: Beam's release, and the one pinned in ``pom.xml``."""
    beam, pinned = beam_version(), versions()["beam.runner.version"]
    return (
        (_java() / f"job-server-{beam}-released", f"Beam's job server {beam}"),
        (_java() / f"job-server-{pinned}-{_flink_version()}", f"Beam's Flink runner {pinned}"),
    )


def _flink_version() -> str:
    return versions()["flink.version"]


def _flink_folder() -> Path:
    return _java() / f"flink-{_flink_version()}"


def _kafka() -> Path:
    return _java() / f"kafka-{versions()['kafka.version']}"


def _java() -> Path:
    return cache_dir() / "java"


def _existing_folder(folder: Path, name: str) -> Path:
    if not folder.is_dir():
        raise EngineError(f"{name} is not set up: {SETUP}")
    return folder


def _copy_jars(profile: str, target: Path, *more: str) -> Path:
    """Return the folder ``target``; if it is missing, download the jars of a ``pom.xml`` profile into it.

    After an interrupted download, ``target`` does not exist.
    """
    if target.is_dir():
        return target
    find_java()
    plugin = f"org.apache.maven.plugins:maven-dependency-plugin:{versions()['maven.dependency.version']}"
    with _temporary_folder_beside(target) as work:
        jars = Path(work) / "jars"
        _run(
            [
                str(find_maven()), "-q", "-B", "-f", str(_POM), "-P", profile, f"{plugin}:copy-dependencies",
                "-DincludeScope=runtime", f"-DoutputDirectory={jars}", *more,
            ],
            f"fetching the jars of {profile}, a minute or two",
        )  # fmt: skip
        _move_into_place(jars, target)
    return target


def _move_into_place(made: Path, target: Path) -> None:
    """Move the folder ``made`` to ``target``, unless another process has created ``target`` meanwhile."""
    try:
        move_whole(made, target)
    except OSError:
        if not target.is_dir():
            raise


def _temporary_folder_beside(target: Path) -> tempfile.TemporaryDirectory[str]:
    target.parent.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(prefix=".setup-", dir=target.parent, ignore_cleanup_errors=True)


def _run(command: list[str], label: str) -> None:
    print(f"{label} …", file=sys.stderr, flush=True)
    began_s = time.monotonic()
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_LIMIT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineError(f"{command[0]}: {error}") from error
    lines = [line for line in (done.stdout + done.stderr).splitlines() if "ERROR" in line or "error" in line]
    if done.returncode:
        first = lines[0].strip() if lines else f"exit {done.returncode}"
        raise EngineError(f"{Path(command[0]).name} failed after {time.monotonic() - began_s:.0f} s: {first}")


def main(arguments: list[str]) -> int:
    """Run ``setup [job-server] [flink] [kafka]``: download the named programs (by default all) if missing."""
    known = {"job-server": setup_job_server, "flink": setup_flink, "kafka": setup_kafka}
    if arguments[:1] != ["setup"] or not known.keys() >= set(arguments[1:]):
        print(f"usage: python -m pipelines.runners.java setup [{'] ['.join(known)}]", file=sys.stderr)
        return 2
    try:
        for name in arguments[1:] or known:
            print(f"{name}: {known[name]()}")
    except (EngineError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EngineError.exit_code
    except KeyboardInterrupt:
        print("interrupted: no incomplete folder is left", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
