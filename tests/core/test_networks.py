"""Which addresses a runner may have."""

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upshot.core.networks import NetworkPolicy

ALL = NetworkPolicy.parse("private,loopback,public")
PUBLIC = NetworkPolicy.parse("public")

NEVER_CALLED = [
    "0.0.0.0",
    "0.1.2.3",
    "169.254.169.254",
    "169.254.170.2",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "fe80::1",
    "fe80::1%eth0",
    "fd00:ec2::254",
    "fd00:ec2::23",
    "fd20:ce::254",
    "fd00:42::42",
    "ff02::1",
    "::ffff:169.254.169.254",
    "::169.254.169.254",
    "::ffff:0:169.254.169.254",
    "64:ff9b::169.254.169.254",
    "64:ff9b:1::169.254.169.254",
    "2002:a9fe:a9fe::1",  # 6to4 of 169.254.169.254
    "2001:0:a9fe:a9fe::f7f7:f7f7",  # Teredo, the server
    "2001:0:808:808::5601:5601",  # Teredo, the client
]
LOOPBACK = ["127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1", "64:ff9b::127.0.0.1"]
PRIVATE = [
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "100.64.0.1",
    "192.0.0.8",
    "198.18.0.1",
    "fd12:3456::1",
    "fec0::1",
    "::ffff:10.0.0.1",
    "::10.0.0.1",
    "64:ff9b::10.0.0.1",
    "2002:a00:1::1",
    "4000::1",
]
GLOBAL = [
    "8.8.8.8",
    "172.32.0.1",
    "100.63.255.255",
    "100.128.0.1",
    "2606:4700::1111",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
    "2002:808:808::1",
]


@pytest.mark.parametrize("address", NEVER_CALLED)
def test_link_local_and_metadata_addresses_are_never_called(address: str) -> None:
    refusal = ALL.refusal(address)
    assert refusal is not None
    assert address in refusal
    assert NetworkPolicy.parse("0.0.0.0/0,::/0,public").refusal(address) is not None


@pytest.mark.parametrize("address", LOOPBACK + PRIVATE + GLOBAL)
def test_the_default_calls_private_loopback_and_public_addresses(address: str) -> None:
    assert ALL.refusal(address) is None


@pytest.mark.parametrize(
    ("kind", "addresses"), [("loopback", LOOPBACK), ("private", PRIVATE), ("public", GLOBAL)]
)
def test_each_kind_is_allowed_by_its_own_word_alone(kind: str, addresses: list[str]) -> None:
    others = ",".join(word for word in ("public", "private", "loopback") if word != kind)
    for address in addresses:
        assert NetworkPolicy.parse(kind).refusal(address) is None, address
        refusal = NetworkPolicy.parse(others).refusal(address)
        assert refusal is not None, address
        assert kind in refusal


def test_a_listed_network_is_allowed_and_its_neighbours_are_not() -> None:
    policy = NetworkPolicy.parse("public, 10.1.0.0/16, 192.168.5.9, fd12::/16")
    assert policy.refusal("10.1.255.255") is None
    assert policy.refusal("::ffff:10.1.0.1") is None
    assert policy.refusal("192.168.5.9") is None
    assert policy.refusal("fd12::1") is None
    assert policy.refusal("8.8.8.8") is None
    assert policy.refusal("10.2.0.1") is not None
    assert policy.refusal("192.168.5.8") is not None
    assert policy.refusal("127.0.0.1") is not None


@pytest.mark.parametrize("text", ["127.1", "2130706433", "0x7f.1", "0177.0.0.1", "localhost", ""])
def test_what_is_no_plain_address_is_refused(text: str) -> None:
    assert ALL.refusal(text) is not None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "No network"),
        (" , ", "No network"),
        ("publik", "neither public, private, loopback nor a CIDR"),
        ("10.0.0.5/8", "host bits"),
        ("10.0.0.0/33", "10.0.0.0/33"),
        ("169.254.0.0/16", "never called"),
        ("public,169.254.169.254", "never called"),
        ("fe80::/64", "never called"),
    ],
)
def test_a_bad_setting_is_refused_with_the_reason(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        NetworkPolicy.parse(text)


def test_words_are_read_whatever_their_case_and_spacing() -> None:
    assert NetworkPolicy.parse(" Public ,LOOPBACK,") == NetworkPolicy.parse("loopback,public")


@given(st.ip_addresses(v=4), st.sampled_from(["public", "private", "loopback", "10.0.0.0/9"]))
def test_an_ipv4_address_is_judged_alike_however_ipv6_writes_it(
    address: IPv4Address, setting: str
) -> None:
    policy = NetworkPolicy.parse(setting)
    plain = policy.refusal(str(address)) is None
    number = int(address)
    for carrier in (0xFFFF << 32 | number, 0x64FF9B << 96 | number, 0x2002 << 112 | number << 80):
        assert (policy.refusal(str(IPv6Address(carrier))) is None) == plain


@given(st.ip_addresses())
def test_every_address_that_may_be_called_is_of_exactly_one_kind(
    address: IPv4Address | IPv6Address,
) -> None:
    kinds = [NetworkPolicy.parse(kind) for kind in ("public", "private", "loopback")]
    allowed = [policy.refusal(str(address)) is None for policy in kinds]
    teredo = isinstance(address, IPv6Address) and address.teredo is not None
    if ALL.refusal(str(address)) is not None:
        assert not any(allowed)
    elif not teredo:  # Whose two ends may be of two kinds.
        assert sum(allowed) == 1


def test_a_teredo_address_needs_both_its_ends_allowed() -> None:
    address = "2001:0:808:808::f5ff:fffe"  # By 8.8.8.8, to 10.0.0.1.
    assert ALL.refusal(address) is None
    assert PUBLIC.refusal(address) is not None
    assert NetworkPolicy.parse("private").refusal(address) is not None
