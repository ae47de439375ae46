"""`upshot key` on a real database."""

import pytest

from tests.cli.conftest import Command
from upshot.storage import api_keys
from upshot.storage.database import Database


@pytest.fixture
def upshot_there(upshot: Command, database_url: str) -> Command:
    upshot.set(UPSHOT_DATABASE_URL=database_url)
    return upshot


def create(upshot: Command, name: str, *scopes: str) -> str:
    """The key's token."""
    options = [word for scope in scopes for word in ("--scope", scope)]
    ended = upshot("key", "create", "--name", name, *options)
    assert ended.code == 0
    return ended.out.strip()


@pytest.mark.anyio
async def test_the_token_alone_is_on_standard_output_and_opens_what_it_should(
    upshot_there: Command, database: Database
) -> None:
    ended = await upshot_there.beside(
        "key", "create", "--name", "shop", "--scope", "events:write", "--scope", "read"
    )
    token = ended.out.removesuffix("\n")
    assert token.startswith("upk_")
    assert token.isprintable()
    assert token not in ended.err
    async with database.begin() as conn:
        key = await api_keys.find_active(conn, api_keys.hash_of(token))
    assert key is not None
    assert (key.name, sorted(key.scopes)) == ("shop", ["events:write", "read"])


def test_scripts_get_the_token_with_the_key(upshot_there: Command) -> None:
    ended = upshot_there("key", "create", "--name", "shop", "--scope", "read", "--json")
    assert ended.json["token"].startswith("upk_")
    assert ended.json["scopes"] == ["read"]


def test_a_token_is_never_shown_again(upshot_there: Command) -> None:
    token = create(upshot_there, "shop", "read")
    for ended in (upshot_there("key", "list"), upshot_there("key", "list", "--json")):
        assert "shop" in ended.out
        assert token not in ended.out


def test_a_key_is_revoked_by_its_name_or_its_id(upshot_there: Command) -> None:
    create(upshot_there, "a", "read")
    create(upshot_there, "b", "read")
    assert upshot_there("key", "revoke", "a").code == 0
    keys = {key["name"]: key for key in upshot_there("key", "list", "--json").json}
    assert keys["a"]["revoked"]
    assert not keys["b"]["revoked"]
    assert upshot_there("key", "revoke", keys["b"]["id"], "--json").json["revoked"]


def test_revoking_what_is_not_there_or_is_revoked_is_an_error(upshot_there: Command) -> None:
    create(upshot_there, "a", "read")
    upshot_there("key", "revoke", "a")
    again = upshot_there("key", "revoke", "a")
    assert (again.code, "is revoked already" in again.err) == (1, True)
    unknown = upshot_there("key", "revoke", "z")
    assert (unknown.code, "There is no key 'z'" in unknown.err) == (1, True)


def test_of_several_keys_with_a_name_none_is_revoked_by_it(upshot_there: Command) -> None:
    create(upshot_there, "a", "read")
    create(upshot_there, "a", "read")
    ended = upshot_there("key", "revoke", "a")
    assert (ended.code, "say which by its id" in ended.err) == (1, True)
    assert not any(key["revoked"] for key in upshot_there("key", "list", "--json").json)


@pytest.mark.parametrize(
    "options",
    [
        ["--name", "a"],
        ["--scope", "read"],
        ["--name", "a", "--scope", "write"],
        ["--name", " ", "--scope", "read"],
        ["--name", "a\x1b", "--scope", "read"],
        ["--name", "a" * 129, "--scope", "read"],
    ],
)
def test_a_key_without_a_name_or_a_scope_is_an_error_of_usage(
    options: list[str], upshot: Command
) -> None:
    assert upshot("key", "create", *options).code == 2
