"""Tests that logins and tokens are masked in URLs, settings and errors."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from schemas.errors import DataError, VersionMismatch
from schemas.masking import masked, split_login
from schemas.secrets import SecretOption, SecretUrl

WORD = st.text(st.characters(codec="utf-8", exclude_categories=["Z", "C"]), min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("text", "masked_text"),
    [
        ("http://me:pw@host:5000/x", "http://***@host:5000/x"),
        ("postgresql+psycopg2://me:p@ss/w:d@db/runs", "postgresql+psycopg2://***@db/runs"),
        ("https://token@host", "https://***@host"),
        ("two: http://a:b@c, s3://key:secret@bucket/x", "two: http://***@c, s3://***@bucket/x"),
        (
            "postgresql://db/runs?user=me&password=pw&sslmode=on",
            "postgresql://db/runs?user=me&password=***&sslmode=on",
        ),
        ("https://host/x?X-Amz-Signature=abc", "https://host/x?X-Amz-Signature=***"),
        ("http://host:8080/a@b", "http://host:8080/a@b"),
        ("s3://bucket/key@2", "s3://bucket/key@2"),
        ("models:/weather@champion", "models:/weather@champion"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
        ("ask me@example.org", "ask me@example.org"),
    ],
)
def test_url_logins_and_secret_query_parameters_are_masked(text: str, masked_text: str) -> None:
    assert masked(text) == masked_text
    assert masked(masked_text) == masked_text


@given(WORD, WORD)
def test_masked_urls_never_contain_the_password(name: str, password: str) -> None:
    name = name.replace("/", "").replace(":", "") or "me"
    secret = f"<{password}>"
    for text in (f"http://{name}:{secret}@host:1/x", f"error at 'pg://{name}:{secret}@db': no"):
        assert secret not in masked(text)


@given(WORD, WORD)
def test_split_login_separates_url_and_login(name: str, password: str) -> None:
    from urllib.parse import quote

    login = f"{quote(name, safe='')}:{quote(password, safe='')}"
    assert split_login(f"http://{login}@host:80/a@b?c") == ("http://host:80/a@b?c", f"{name}:{password}")
    assert split_login("http://host/a@b") == ("http://host/a@b", "")


def test_secrets_are_masked_in_every_text_form() -> None:
    url, option = SecretUrl("http://me:pw@host"), SecretOption("pw")
    for text in (
        str(url),
        repr(url),
        f"{url}",
        f"{[url, option]}",
        TypeAdapter(SecretUrl).dump_json(url).decode(),
    ):
        assert "pw" not in text
        assert "***" in text
    assert str(SecretOption("$NAME")) == "$NAME"
    assert TypeAdapter(SecretUrl).validate_python("http://me:pw@host") == url
    assert url.get_secret_value() == "http://me:pw@host"


def test_logins_in_urls_of_errors_stay_masked_after_pickling() -> None:
    for kind in (DataError, VersionMismatch):
        error = kind("http://me:pw@host: no answer")
        assert str(error) == str(pickle.loads(pickle.dumps(error))) == "http://***@host: no answer"  # noqa: S301
