"""Which addresses a runner may have: the policy behind `UPSHOT_RUNNER_NETWORKS`."""

from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

KINDS = ("public", "private", "loopback")

_NEVER: tuple[Network, ...] = tuple(
    ip_network(network)
    for network in (
        "0.0.0.0/8",  # Unspecified; Linux connects it to itself.
        "169.254.0.0/16",  # Link-local, and most clouds' metadata.
        "100.100.100.200/32",  # Metadata of Alibaba Cloud.
        "168.63.129.16/32",  # The platform's own service in Azure.
        "192.0.0.192/32",  # Metadata of Oracle Cloud.
        "224.0.0.0/4",  # Multicast.
        "240.0.0.0/4",  # Reserved, and broadcast.
        "::/128",
        "fe80::/10",  # Link-local.
        "fd00:ec2::/32",  # Services of an instance in AWS, metadata among them.
        "fd20:ce::254/128",  # Metadata of Google Cloud.
        "fd00:42::42/128",  # Metadata of Scaleway.
        "ff00::/8",  # Multicast.
    )
)
_LOOPBACK: tuple[Network, ...] = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
_PRIVATE: tuple[Network, ...] = (  # What `is_global` lets through, in some Pythons at least.
    ip_network("100.64.0.0/10"),  # Carrier-grade NAT; overlay networks live here.
    ip_network("192.0.0.0/24"),
    ip_network("192.88.99.0/24"),
)
_GLOBAL_UNICAST = ip_network("2000::/3")

# IPv6 addresses that carry an IPv4 address in their last 32 bits, which is where packets end.
_CARRIERS: tuple[Network, ...] = (
    ip_network("::/96"),  # IPv4-compatible.
    ip_network("::ffff:0:0/96"),  # IPv4-mapped.
    ip_network("::ffff:0:0:0/96"),  # IPv4-translated.
    ip_network("64:ff9b::/96"),  # NAT64.
    ip_network("64:ff9b:1::/48"),  # NAT64 of a site's own.
)


@dataclass(frozen=True, slots=True)
class NetworkPolicy:
    """The kinds of address and the networks that may be called.

    Link-local and metadata addresses never may, whatever is listed: what answers there hands
    out the machine's credentials.
    """

    kinds: frozenset[str]
    networks: tuple[Network, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "NetworkPolicy":
        """Read a list such as `private,loopback,203.0.113.0/24`; ValueError says what is wrong."""
        words = [word.strip().lower() for word in text.split(",") if word.strip()]
        if not words:
            raise ValueError(f"No network is listed. Use {', '.join(KINDS)} or CIDRs.")
        return cls(
            kinds=frozenset(word for word in words if word in KINDS),
            networks=tuple(_network(word) for word in words if word not in KINDS),
        )

    def refusal(self, address: str) -> str | None:
        """Why this address may not be called, or None if it may.

        It judges an address that a socket is about to connect to, never a name. Anything else,
        such as `127.1`, is refused.
        """
        try:
            outer = ip_address(address)
        except ValueError:
            return f"{address!r} is no IP address in its plain form."
        inner = _carried(outer)
        if any(_within(one, _NEVER) for one in (outer, *inner)):
            return f"{address} is a link-local, metadata or reserved address; none is ever called."
        if _within(outer, self.networks):
            return None
        for one in inner:
            kind = _kind(one)
            if kind not in self.kinds and not _within(one, self.networks):
                return f"{address} is a {kind} address, and UPSHOT_RUNNER_NETWORKS has none such."
        return None


def _network(word: str) -> Network:
    try:
        network = ip_network(word)
    except ValueError as error:
        expected = ", ".join(KINDS)
        raise ValueError(f"{word!r} is neither {expected} nor a CIDR: {error}.") from None
    if any(_covers(never, network) for never in _NEVER):
        raise ValueError(f"{word!r} is link-local, metadata or reserved, and is never called.")
    return network


def _covers(outer: Network, inner: Network) -> bool:
    return inner.network_address in outer and inner.broadcast_address in outer


def _within(address: Address, networks: tuple[Network, ...]) -> bool:
    return any(address in network for network in networks)


def _carried(address: Address) -> tuple[Address, ...]:
    """The addresses that this one leads to: itself, or the IPv4 addresses written inside it."""
    if isinstance(address, IPv4Address) or _within(address, _LOOPBACK):
        return (address,)
    if address.sixtofour is not None:
        return (address.sixtofour,)
    if address.teredo is not None:
        return address.teredo
    if _within(address, _CARRIERS):
        return (IPv4Address(int(address) & 0xFFFF_FFFF),)
    return (address,)


def _kind(address: Address) -> str:
    if _within(address, _LOOPBACK):
        return "loopback"
    if _within(address, _PRIVATE) or not address.is_global:
        return "private"
    # What is not assigned to the public internet is somebody's own.
    if isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST:
        return "private"
    return "public"
