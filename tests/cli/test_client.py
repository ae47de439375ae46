"""What the command says when the server is not there, is another, or refuses."""

import pytest

from tests.cli.conftest import Command, write
from tests.receiver import Receiver, drop, reply

pytestmark = pytest.mark.anyio


def test_without_a_server_it_says_how_to_start_one(upshot: Command) -> None:
    ended = upshot("run", "list", "--url", "http://127.0.0.1:1")
    assert ended.code == 1
    assert "No Upshot answers at http://127.0.0.1:1." in ended.err
    assert "upshot serve" in ended.err


def test_the_port_of_the_servers_settings_is_where_the_command_looks(upshot: Command) -> None:
    upshot.set(UPSHOT_PORT="1")
    assert "http://127.0.0.1:1." in upshot("status").err


@pytest.mark.parametrize("url", ["nowhere", "ftp://127.0.0.1", "http://", "\x00"])
def test_an_address_that_is_none_is_told(url: str, upshot: Command) -> None:
    ended = upshot("status", "--url", url)
    assert ended.code == 1
    assert "is no server's address" in ended.err


def test_a_key_that_cannot_be_one_is_not_sent(upshot: Command) -> None:
    ended = upshot("status", "--key", "upk_ü")
    assert ended.code == 1
    assert "characters that no key has" in ended.err


async def test_what_answers_and_is_no_upshot_is_told(upshot: Command) -> None:
    page = reply(200, b"<html>", headers={"content-type": "text/html"})
    async with Receiver(page) as other:
        ended = await upshot.beside("status", "--url", other.url)
    assert ended.code == 1
    assert "is no Upshot: HTTP 200, text/html" in ended.err


async def test_a_server_that_hangs_up_is_told(upshot: Command) -> None:
    async with Receiver(drop()) as other:
        ended = await upshot.beside("status", "--url", other.url)
    assert ended.code == 1
    assert "broke off" in ended.err


async def test_the_environments_proxy_is_not_asked_for_this_machines_addresses(
    upshot: Command,
) -> None:
    answer = reply(200, b"[]", headers={"content-type": "application/json"})
    upshot.set(http_proxy="http://127.0.0.1:1", HTTP_PROXY="http://127.0.0.1:1")
    async with Receiver(answer) as other:
        await upshot.beside("status", "--url", other.url, "--json")
        assert [call.path for call in other.calls] == ["/run/v1/status"]


async def test_a_key_is_sent_from_the_option_or_the_environment_or_dotenv(upshot: Command) -> None:
    answer = reply(200, b"[]", headers={"content-type": "application/json"})
    async with Receiver(answer) as other:
        write(".env", f"UPSHOT_API_URL={other.url}\nUPSHOT_API_KEY=upk_dotenv\n")
        await upshot.beside("status", "--json")
        upshot.set(UPSHOT_API_KEY="upk_environment")
        await upshot.beside("status", "--json")
        await upshot.beside("status", "--json", "--key", "upk_option")
        sent = [call.headers["authorization"] for call in other.calls]
    assert sent == ["Bearer upk_dotenv", "Bearer upk_environment", "Bearer upk_option"]
