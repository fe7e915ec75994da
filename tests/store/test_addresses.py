"""Which URLs may be webhooks: every disguise of a private address is refused before anything is looked up."""

import ipaddress

import pytest

from distillery.errors import InvalidWebhook
from store.addresses import is_public, may_reach, parse_target

PRIVATE = ["10.0.0.0/8", "fd00::/8"]
PUBLIC = ["1.1.1.1", "8.8.8.8", "93.184.216.34", "2606:4700:4700::1111", "2a00:1450:4001:81b::200e", "2400:cb00::1"]
NOT_PUBLIC = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.100.100.200", "100.127.255.255",
    "127.0.0.1", "127.1.2.3", "168.63.129.16", "169.254.0.1", "169.254.169.254", "172.16.0.1", "172.31.255.255",
    "192.0.0.1", "192.0.0.8", "192.0.0.9", "192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1",
    "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:0:127.0.0.1", "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe", "64:ff9b:1::a00:1", "100::1", "2001::1", "2001:0:7f00:1::", "2001:2::1", "2001:10::1",
    "2001:20::1", "2001:db8::1", "2002:7f00:1::", "2002:a9fe:a9fe::1", "3fff::1", "4000::1", "5f00::1", "fc00::1",
    "fd00:ec2::254", "fdff::1", "fe80::1", "fe80::1%eth0", "fec0::1", "feff::1", "ff02::1", "ff0e::1",
]  # fmt: skip
REFUSED_URLS = [
    # private addresses, and numbers that some programs read as one
    ("https://127.0.0.1/", "ADDRESS_NOT_PUBLIC"),
    ("https://169.254.169.254/latest/meta-data", "ADDRESS_NOT_PUBLIC"),
    ("https://[::1]/", "ADDRESS_NOT_PUBLIC"),
    ("https://[fd00:ec2::254]/", "ADDRESS_NOT_PUBLIC"),
    ("https://[64:ff9b::7f00:1]/", "ADDRESS_NOT_PUBLIC"),
    ("https://2130706433/", "URL_HOST"),
    ("https://017700000001/", "URL_HOST"),
    ("https://0x7f000001/", "URL_HOST"),
    ("https://0x7f.0.0.1/", "URL_HOST"),
    ("https://0x7f.1/", "URL_HOST"),
    ("https://0177.0.0.1/", "URL_HOST"),
    ("https://127.1/", "URL_HOST"),
    ("https://127.0.1/", "URL_HOST"),
    ("https://127.0.0.01/", "URL_HOST"),
    ("https://127.0.0.1./", "URL_HOST"),
    ("https://127.0.0.0x1/", "URL_HOST"),
    ("https://1.1.1.1.1/", "URL_HOST"),
    ("https://hooks.example.256/", "URL_HOST"),
    ("https://[::ffff:127.0.0.1]/", "URL_HOST or ADDRESS_NOT_PUBLIC"),
    ("https://[::ffff:7f00:1]/", "URL_HOST or ADDRESS_NOT_PUBLIC"),
    ("https://[0:0:0:0:0:0:0:1]/", "URL_HOST"),
    ("https://[2606:4700:0::1]/", "URL_HOST"),
    ("https://[fe80::1%25eth0]/", "URL_HOST"),
    ("https://[::1]hooks.example.com/", "URL_HOST"),
    ("https://hooks.example.com[::1]/", "URL_HOST"),
    ("https://[127.0.0.1]/", "URL_UNREADABLE"),
    ("https://[v1.x]/", "URL_HOST"),
    ("https://[::1/", "URL_UNREADABLE"),
    # letters that a resolver, or a reader, takes for others
    ("https://127。0。0。1/", "URL_CHARACTERS"),
    ("https://①②⑦.⓪.⓪.①/", "URL_CHARACTERS"),
    ("https://hooks\uff0eexample\uff0ecom/", "URL_CHARACTERS"),
    ("https://bücher.example/", "URL_CHARACTERS"),
    ("https://127%2E0%2E0%2E1/", "URL_HOST"),
    ("https://hooks.example.com\\@127.0.0.1/", "URL_CHARACTERS"),
    ("https://hooks.example.com/a b", "URL_CHARACTERS"),
    ("https://hooks.example.com/\r\nX-Header: 1", "URL_CHARACTERS"),
    ("https://hooks.example.com/\x00", "URL_CHARACTERS"),
    ("https://hooks_example.com/", "URL_HOST"),
    ("https://-hooks.example.com/", "URL_HOST"),
    ("https://hooks..example.com/", "URL_HOST"),
    ("https://hooks.example.com./", "URL_HOST"),
    (f"https://{'a' * 64}.example.com/", "URL_HOST"),
    (f"https://{'a.' * 130}com/", "URL_HOST"),
    ("https://localhost/", "URL_HOST"),
    ("https://*.example.com/", "URL_HOST"),
    ("https:///path", "URL_HOST"),
    ("https://", "URL_HOST"),
    # everything but the host
    ("http://hooks.example.com/", "URL_SCHEME"),
    ("ftp://hooks.example.com/", "URL_SCHEME"),
    ("file:///etc/passwd", "URL_SCHEME"),
    ("hooks.example.com", "URL_SCHEME"),
    ("//hooks.example.com/", "URL_SCHEME"),
    ("https://user@hooks.example.com/", "URL_USERINFO"),
    ("https://user:secret@hooks.example.com/", "URL_USERINFO"),
    ("https://@hooks.example.com/", "URL_USERINFO"),
    ("https://hooks.example.com:22/", "URL_PORT"),
    ("https://hooks.example.com:80/", "URL_PORT"),
    ("https://hooks.example.com:65536/", "URL_UNREADABLE"),
    ("https://hooks.example.com:-1/", "URL_UNREADABLE"),
    ("https://hooks.example.com:0/", "URL_UNREADABLE"),
    ("https://hooks.example.com:/", "URL_UNREADABLE"),
    ("https://hooks.example.com:443a/", "URL_UNREADABLE"),
    ("https://hooks.example.com/#there", "URL_FRAGMENT"),
    ("https://hooks.example.com/#", "URL_FRAGMENT"),
    (f"https://hooks.example.com/{'a' * 2048}", "URL_TOO_LONG"),
]  # fmt: skip


def networks(*texts: str) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    return [ipaddress.ip_network(text) for text in texts]


@pytest.mark.parametrize("text", PUBLIC)
def test_addresses_of_the_internet_are_public(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", NOT_PUBLIC)
def test_no_disguise_of_another_address_is_public(text: str) -> None:
    assert not is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize(("url", "code"), REFUSED_URLS, ids=[repr(url)[:60] for url, _ in REFUSED_URLS])
def test_what_is_no_public_https_address_is_refused_with_a_hint(url: str, code: str) -> None:
    with pytest.raises(InvalidWebhook) as caught:
        parse_target(url)
    (problem,) = caught.value.problems
    assert problem.pointer == "/url"
    assert problem.code in code.split(" or ")
    assert problem.detail
    assert problem.hint


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("https://hooks.example.com", ("hooks.example.com", 443, "/", "hooks.example.com")),
        ("https://hooks.example.com/a/b?c=d", ("hooks.example.com", 443, "/a/b?c=d", "hooks.example.com")),
        ("https://hooks.example.com?c=d", ("hooks.example.com", 443, "/?c=d", "hooks.example.com")),
        ("HTTPS://HOOKS.Example.COM:8443/A", ("hooks.example.com", 8443, "/A", "hooks.example.com:8443")),
        ("https://hooks.example.com:443/", ("hooks.example.com", 443, "/", "hooks.example.com")),
        ("https://xn--bcher-kva.example/", ("xn--bcher-kva.example", 443, "/", "xn--bcher-kva.example")),
        ("https://93.184.216.34/", ("93.184.216.34", 443, "/", "93.184.216.34")),
        ("https://[2606:4700::1111]:8443/", ("2606:4700::1111", 8443, "/", "[2606:4700::1111]:8443")),
    ],
)
def test_a_url_is_taken_apart(url: str, parts: tuple[str, int, str, str]) -> None:
    target = parse_target(url)
    assert (target.host, target.port, target.path, target.authority) == parts


@pytest.mark.parametrize(
    "url", ["http://10.1.2.3:8080/", "https://10.1.2.3/", "http://receiver:9000/", "http://[fd00::1]/"]
)
def test_the_operator_may_allow_networks_with_http_and_any_port(url: str) -> None:
    assert parse_target(url, networks=networks(*PRIVATE)).path == "/"
    with pytest.raises(InvalidWebhook):
        parse_target(url)


@pytest.mark.parametrize("url", ["http://192.168.0.1/", "http://127.0.0.1/", "http://1.1.1.1/", "https://1.1.1.1:22/"])
def test_what_is_allowed_in_one_network_is_not_allowed_elsewhere(url: str) -> None:
    with pytest.raises(InvalidWebhook):
        parse_target(url, networks=networks(*PRIVATE))


def test_http_to_a_name_reaches_only_the_allowed_networks() -> None:
    allowed = networks(*PRIVATE)
    target = parse_target("http://receiver.example.com/", networks=allowed)
    assert may_reach(target, ipaddress.ip_address("10.0.0.1"), networks=allowed)
    assert not may_reach(target, ipaddress.ip_address("1.1.1.1"), networks=allowed)
    assert not may_reach(target, ipaddress.ip_address("192.168.0.1"), networks=allowed)
