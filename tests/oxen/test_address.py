"""The one string that names a repository."""

from pathlib import Path

import pytest

from pipeline.errors import RepositoryError
from pipeline.oxen.address import Address, parse_repo


def test_what_names_a_repository(project):
    assert parse_repo("bundled") == "bundled"
    assert parse_repo("a/b") == project.resolve() / "a" / "b"
    assert parse_repo("/a@b/c") == Path("/a@b/c")
    hub = Address("https", "hub.oxen.ai", "ox", "Names_1.2-x")
    for repo in (
        "https://hub.oxen.ai/ox/Names_1.2-x",
        "HTTPS://Hub.Oxen.AI:443/ox/Names_1.2-x/",
    ):
        assert parse_repo(repo) == hub
    assert str(hub) == "https://hub.oxen.ai/ox/Names_1.2-x"
    assert str(parse_repo("http://127.0.0.1:3000/ns/name")) == "http://127.0.0.1:3000/ns/name"
    assert str(parse_repo("http://[::1]:3000/ns/name")) == "http://[::1]:3000/ns/name"


@pytest.mark.parametrize(
    ("repo", "message"),
    [
        ("https://hub.oxen.ai", "an address is https://HOST/NAMESPACE/NAME (got https://hub.ox"),
        ("https://hub.oxen.ai/ns", "an address is https://HOST/NAMESPACE/NAME (got https://hub.ox"),
        (
            "https://hub.oxen.ai/ns/name/dir/main",
            "an address ends with the repository's name (got https://hub.oxen.ai/ns/name/dir/main"
            "): did you mean https://hub.oxen.ai/ns/name?",
        ),
        ("https://h/n/name", "a name must match [a-zA-Z0-9][a-zA-Z0-9_-]{1,49} (got 'n' in http"),
        ("https://h/ns/n", "a name must match [a-zA-Z0-9][a-zA-Z0-9_.-]+ (got 'n' in https://h/n"),
        ("https://h/ns/a b", "a name must match [a-zA-Z0-9][a-zA-Z0-9_.-]+ (got 'a b' in https"),
        ("https://h/ns/name?key=SECRET", "an address ends with the repository's name, without ? "),
        ("https://h/ns/name#SECRET", "an address ends with the repository's name, without ? or #"),
        ("https:///ns/name", "no host is called nothing (got https:///ns/name)"),
        ("https://a_b/ns/name", "no host is called a_b (got https://a_b/ns/name)"),
        ("https://h:99999/ns/name", "no address of a repository: Port out of range 0-65535 (got "),
        ("https://h:x/ns/name", "no address of a repository: Port could not be cast to integer"),
        ("http://[::1/ns/name", "no address of a repository: Invalid IPv6 URL (got http://[::1/"),
        ("file:///somewhere", "no repository can be at file://…: give https://HOST/NAMESPACE/NAME"),
        ("s3://SECRET/x", "no repository can be at s3://…: give https://HOST/NAMESPACE/NAME, the "),
        ("https:/h/ns/name", "an address starts with http:// or https:// (got https:/h/ns/name)"),
        ("hub.oxen.ai/ns/name", "an address starts with http:// or https:// (got hub.oxen.ai/ns/"),
        ("localhost:3000/ns/name", "an address starts with http:// or https:// (got localhost:30"),
        ("https://me:SECRET@hub.oxen.ai/ns/name", "a name or token before @hub.oxen.ai is refus"),
        ("https://SECRET@h:3000/ns/name", "a name or token before @h:3000 is refused, as param"),
        ("me:SECRET@hub.oxen.ai/ns/name", "a name or token before @hub.oxen.ai is refused, as "),
        ("ftp://me:SECRET@h/ns/name", "a name or token before @h is refused, as parameters are"),
    ],
)
def test_what_names_none_is_said_without_its_secrets(repo, message):
    with pytest.raises(RepositoryError) as error:
        parse_repo(repo)
    assert str(error.value).startswith(message)
    assert "SECRET" not in str(error.value)
