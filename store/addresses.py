"""Which addresses a webhook may be sent to: those that are public, and those that the operator allows besides.

`ipaddress.is_global` does not do: on Python 3.11 it is true of 64:ff9b::7f00:1 and of 2002:7f00:1::, which are
127.0.0.1 in disguise, of ::127.0.0.1, of 192.0.0.8, and of every multicast address.
"""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from distillery.errors import FieldProblem, InvalidWebhook
from distillery.webhooks import MAX_URL_CHARACTERS
from store.config import Network

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
PORTS = (443, 8443)
_CLOSED = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",  # this host
        "10.0.0.0/8",
        "100.64.0.0/10",  # behind a carrier's NAT; a cloud's metadata
        "127.0.0.0/8",
        "168.63.129.16/32",  # a cloud's own services, on an address that looks public
        "169.254.0.0/16",  # link-local; most clouds' metadata
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # relays from IPv6
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
        "2001::/23",  # protocol assignments, Teredo among them: an IPv4 address in disguise
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: an IPv4 address in disguise
        "3fff::/20",  # documentation
    )
)
_OPEN_IPV6 = ipaddress.IPv6Network("2000::/3")
"""All that was ever given out as public. Loopback, private, link-local and site-local addresses, multicast, and IPv4
addresses mapped, embedded or translated (::ffff:0:0/96, ::/96, 64:ff9b::/96) lie outside."""
_TYPED = re.compile(r"[!-~]+")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_NUMBER = re.compile(r"0x[0-9a-f]*|[0-9]+")
_LONGEST_NAME = 253


@dataclass(frozen=True)
class Target:
    """A webhook's address taken apart. `host` is a name, or an IP address in its canonical form without brackets."""

    scheme: str
    host: str
    port: int
    path: str
    """With the query."""

    @property
    def is_open(self) -> bool:
        """Whether it may be anywhere in public; another port, or http, only in a network that the operator allows."""
        return self.scheme == "https" and self.port in PORTS

    @property
    def authority(self) -> str:
        """The host and, unless it goes without saying, the port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


_DEFAULT_PORTS = {"https": 443, "http": 80}


def is_public(address: Address) -> bool:
    """Whether an address belongs to a host of the public internet."""
    if isinstance(address, ipaddress.IPv6Address) and (address not in _OPEN_IPV6 or address.scope_id):
        return False
    return not any(address in network for network in _CLOSED)


def may_reach(target: Target, address: Address, *, networks: Sequence[Network]) -> bool:
    """Whether a message for `target` may be sent to this address of its host."""
    return any(address in network for network in networks) or (target.is_open and is_public(address))


def parse_target(url: str, *, networks: Sequence[Network] = ()) -> Target:
    """Take a webhook's URL apart; a host that is an address is checked too. Names are not looked up.

    `networks` are allowed besides what is public; only where there are any, http and other ports may be used.

    Raises:
        InvalidWebhook: nothing may be sent there; the pointer is `/url`.
    """
    if len(url) > MAX_URL_CHARACTERS:
        raise _refused("URL_TOO_LONG", f"The URL has {len(url)} characters.", f"Use at most {MAX_URL_CHARACTERS}.")
    if not _TYPED.fullmatch(url) or "\\" in url:
        hint = "Write names in ASCII (xn--…) and everything else percent-encoded."
        raise _refused("URL_CHARACTERS", "The URL holds a character that stands in no URL.", hint)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _unreadable(str(error)) from None
    scheme, host = parts.scheme, parts.hostname or ""
    if scheme not in (("https", "http") if networks else ("https",)):
        raise _refused("URL_SCHEME", f"The URL begins with '{scheme[:20]}'.", "Use https://.")
    if "@" in parts.netloc:
        hint = "Leave them out; messages are signed, so the receiver can know them as genuine."
        raise _refused("URL_USERINFO", "The URL holds a user or a password.", hint)
    if parts.fragment or url.endswith("#"):
        raise _refused("URL_FRAGMENT", "The URL has a part behind '#', which is never sent.", "Leave it out.")
    if parts.netloc.endswith(":") or port == 0:
        raise _unreadable("its port is missing")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    target = Target(scheme, _host(host, netloc=parts.netloc, networks=networks), port or _DEFAULT_PORTS[scheme], path)
    if not target.is_open and not networks:
        raise _refused("URL_PORT", f"Port {target.port} is not used for webhooks.", "Use port 443 or 8443.")
    address = literal(target.host)
    if address is not None and not may_reach(target, address, networks=networks):
        raise not_allowed(target, address)
    return target


def literal(host: str) -> Address | None:
    """The address that a host is, if it is one in canonical form."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return address if str(address) == host else None


def not_allowed(target: Target, address: Address) -> InvalidWebhook:
    """The refusal of an address."""
    if is_public(address):
        detail = f"{target.scheme}://{target.authority} is public, and there only https on ports 443 and 8443 is used."
        return _refused("URL_PORT", detail, "Use https on port 443 or 8443.")
    what = f"{address}" if str(address) == target.host else f"{target.host} is {address}, which"
    return _refused(
        "ADDRESS_NOT_PUBLIC",
        f"{what} is not an address of the public internet.",
        "Use a public receiver, or have the operator allow its network in DISTILLERY_WEBHOOK_NETWORKS.",
    )


def _host(host: str, *, netloc: str, networks: Sequence[Network]) -> str:
    if "[" in netloc:
        plain = f"{netloc.lower()}:".startswith(f"[{host}]:")
        if plain and ":" in host and "%" not in host and literal(host):
            return host
        raise _refused("URL_HOST", f"'{host[:100]}' is not an IPv6 address in its shortest form.", _HOST_HINT)
    if literal(host):
        return host
    labels = host.split(".")
    if len(host) > _LONGEST_NAME or not all(_LABEL.fullmatch(label) for label in labels):
        raise _refused("URL_HOST", f"'{host[:100]}' is not the name of a host.", _HOST_HINT)
    if _NUMBER.fullmatch(labels[-1]):  # what some programs read as an IPv4 address, and others look up
        raise _refused("URL_HOST", f"'{host[:100]}' is not an IPv4 address in its usual form.", _HOST_HINT)
    if len(labels) == 1 and not networks:
        raise _refused("URL_HOST", f"'{host[:100]}' is a name of the local network.", _HOST_HINT)
    return host


_HOST_HINT = "Use a name such as hooks.example.com, or an address in its usual form."


def _unreadable(why: str) -> InvalidWebhook:
    return _refused(
        "URL_UNREADABLE", f"The URL cannot be read: {why}.", "Write it like https://hooks.example.com/path."
    )


def _refused(code: str, detail: str, hint: str) -> InvalidWebhook:
    return InvalidWebhook([FieldProblem("/url", code, detail, hint)])
