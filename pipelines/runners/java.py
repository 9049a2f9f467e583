"""The Java that Flink needs, and the broker to test with: jars that Maven brings, once per version.

Everything else works without a Java on the machine. The versions stand in ``pom.xml`` beside this file.

``python -m pipelines.runners.java setup`` fetches what is missing.
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
_SPACE: Final = {"m": "http://maven.apache.org/POM/4.0.0"}
_OLDEST: Final = 17
_LIMIT_S: Final = 900.0

SETUP: Final = "run `make java`, or `python -m pipelines.runners.java setup`"

# What Flink 1.19 and Beam's runner reach into, which Java 17 closes.
OPENS: Final = tuple(
    f"--add-opens=java.base/{package}=ALL-UNNAMED"
    for package in (
        "java.lang", "java.lang.invoke", "java.lang.reflect", "java.io", "java.net", "java.nio", "java.text",
        "java.time", "java.util", "java.util.concurrent", "java.util.concurrent.atomic",
        "java.util.concurrent.locks", "sun.net.util", "sun.nio.ch",
    )
)  # fmt: skip


@cache
def versions() -> dict[str, str]:
    """The pinned versions by name, such as ``flink.version``."""
    properties = ElementTree.parse(_POM).find("m:properties", _SPACE)
    assert properties is not None
    return {child.tag.rpartition("}")[2]: (child.text or "").strip() for child in properties}


def find_java() -> Path:
    """The Java of JAVA_HOME, or else of PATH.

    Raises:
        EngineError: there is none, or it is too old.
    """
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=str(Path(home) / "bin") if home else None)
    if found is None:
        where = f"in JAVA_HOME={home}" if home else "on PATH"
        raise EngineError(
            f"Java is not installed ({where}): install Java {_OLDEST} (Debian: openjdk-17-jre-headless)"
        )
    version = _java_version(found)
    if version < _OLDEST:
        raise EngineError(f"Java {version} ({found}) is too old: install Java {_OLDEST}, or set JAVA_HOME")
    return Path(found)


@cache
def _java_version(java: str) -> int:
    told = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60)
    found = re.search(r'version "(\d+)', told.stderr + told.stdout)
    if told.returncode or found is None:
        raise EngineError(f"{java} does not run: install Java {_OLDEST}, or set JAVA_HOME")
    return int(found[1])


def find_maven() -> Path:
    """The Maven on PATH.

    Raises:
        EngineError: there is none.
    """
    found = shutil.which("mvn")
    if found is None:
        raise EngineError("Maven is not installed: install it (Debian: apt-get install maven)")
    return Path(found)


def job_server() -> tuple[Path, str]:
    """The folder of the job server's jars, and what they are: Beam's released one, or the pinned combination.

    Raises:
        EngineError: it is not set up; the line says how to.
    """
    for folder, what in _job_servers():
        if folder.is_dir():
            return folder, what
    raise EngineError(f"Flink's job server is not set up: {SETUP}")


def flink_home() -> Path:
    """The folder of the Flink distribution, which only a cluster of one's own needs.

    Raises:
        EngineError: it is not set up.
    """
    return _there(_flink(), "Flink")


def kafka_jars() -> Path:
    """The folder of the broker's jars.

    Raises:
        EngineError: they are not set up.
    """
    return _there(_kafka(), "Kafka")


def setup_job_server() -> Path:
    """Fetches the job server: Beam's released jar where it is served, else the combination in ``pom.xml``."""
    (released, _), (pinned, _) = _job_servers()
    if released.is_dir() or pinned.is_dir():
        return job_server()[0]
    try:
        return _copied("released-job-server", released, f"-Dbeam.version={beam_version()}")
    except EngineError:
        print("Beam's released job server is not served here: taking the pinned one", file=sys.stderr)
    return _copied("job-server", pinned)


def setup_kafka() -> Path:
    """Fetches the broker's jars."""
    return _copied("kafka", _kafka())


def setup_flink() -> Path:
    """Fetches the Flink distribution, from the Python package that ships it."""
    target = _flink()
    if target.is_dir():
        return target
    installer = package_installer()
    if installer is None:
        raise EngineError("Flink cannot be fetched: neither uv nor pip is here")
    package = f"apache-flink-libraries=={versions()['flink.version']}"
    with _beside(target) as work:
        folder = str(Path(work) / "package")
        _run([*installer, "--no-deps", "--target", folder, package], f"fetching {package}, about 230 MB")
        _moved(Path(folder) / "pyflink", target)
    return target


def _job_servers() -> tuple[tuple[Path, str], tuple[Path, str]]:
    beam, pinned = beam_version(), versions()["beam.runner.version"]
    return (
        (_java() / f"job-server-{beam}-released", f"Beam's job server {beam}"),
        (_java() / f"job-server-{pinned}-{_flink_version()}", f"Beam's Flink runner {pinned}"),
    )


def _flink_version() -> str:
    return versions()["flink.version"]


def _flink() -> Path:
    return _java() / f"flink-{_flink_version()}"


def _kafka() -> Path:
    return _java() / f"kafka-{versions()['kafka.version']}"


def _java() -> Path:
    return cache_dir() / "java"


def _there(folder: Path, name: str) -> Path:
    if not folder.is_dir():
        raise EngineError(f"{name} is not set up: {SETUP}")
    return folder


def _copied(profile: str, target: Path, *more: str) -> Path:
    """The jars of a profile of ``pom.xml`` in ``target``; interrupted, it leaves no half of them there."""
    if target.is_dir():
        return target
    find_java()
    plugin = f"org.apache.maven.plugins:maven-dependency-plugin:{versions()['maven.dependency.version']}"
    with _beside(target) as work:
        jars = Path(work) / "jars"
        _run(
            [
                str(find_maven()), "-q", "-B", "-f", str(_POM), "-P", profile, f"{plugin}:copy-dependencies",
                "-DincludeScope=runtime", f"-DoutputDirectory={jars}", *more,
            ],
            f"fetching the jars of {profile}, a minute or two",
        )  # fmt: skip
        _moved(jars, target)
    return target


def _moved(made: Path, target: Path) -> None:
    """Puts a folder in its place; whoever set up the same meanwhile has put it there, and that will do."""
    try:
        move_whole(made, target)
    except OSError:
        if not target.is_dir():
            raise


def _beside(target: Path) -> tempfile.TemporaryDirectory[str]:
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
    """``setup [job-server] [flink] [kafka]``: fetches those, or all."""
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
        print("interrupted: nothing half-made is left", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
