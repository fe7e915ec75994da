"""Requests to strangers go only to the addresses that were checked, and have an end in time and size."""

import contextlib
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from distillery.errors import InvalidWebhook, Unavailable
from worker.egress import MOST_ANSWER_BYTES, Egress

LOOPBACK = ipaddress.ip_network("127.0.0.0/8")
NAME = "hooks.example.com"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@dataclass
class Wire:
    """A listening socket that tells who came and what they said, and answers raw bytes."""

    answer: Callable[[socket.socket], None]
    tls: ssl.SSLContext | None = None
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)
    names: list[str | None] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            with contextlib.suppress(OSError), connection:
                if self.tls is not None:
                    with self.tls.wrap_socket(connection, server_side=True) as secured:
                        self._talk(secured)
                else:
                    self._talk(connection)

    def _talk(self, connection: socket.socket) -> None:
        head, _, body = _until(connection, b"\r\n\r\n").partition(b"\r\n\r\n")
        length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-l"))
        while len(body) < length:
            body += connection.recv(65536)
        self.requests.append(head + b"\r\n\r\n" + body)
        self.answer(connection)

    def close(self) -> None:
        self.closing.set()
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(30)


def _until(connection: socket.socket, mark: bytes) -> bytes:
    received = b""
    while mark not in received:
        block = connection.recv(65536)
        if not block:
            raise OSError("hung up")
        received += block
    return received


@pytest.fixture
def listen() -> Iterator[Callable[..., Wire]]:
    """Starts a server that answers with these bytes, or as this function does."""
    wires: list[Wire] = []

    def start(answer: bytes | Callable[[socket.socket], None] = OK, **options: Any) -> Wire:
        def says(connection: socket.socket) -> None:
            connection.sendall(answer)  # type: ignore[arg-type]

        wires.append(Wire(answer if callable(answer) else says, **options))
        return wires[-1]

    yield start
    for wire in wires:
        wire.close()


def resolves(*answers: Sequence[str]) -> Callable[..., Any]:
    """A resolver that gives these answers one after the other, the last one for ever."""
    left = list(answers)

    def resolve(host: str, port: int) -> Any:
        given = left.pop(0) if len(left) > 1 else left[0]
        return tuple(ipaddress.ip_address(each) for each in given)

    return resolve


def post(egress: Egress, url: str, body: bytes = b"{}") -> int:
    return egress.post(url, headers={"webhook-id": "msg_1"}, body=body)


def test_the_body_and_the_headers_arrive_as_they_were_sent(listen: Any) -> None:
    wire = listen()
    body = '{"name": "ü"}'.encode()
    assert post(Egress(networks=[LOOPBACK]), f"http://127.0.0.1:{wire.port}/a/b?c=%2F", body) == 200
    head, _, received = wire.requests[0].partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert (lines[0], received) == (b"POST /a/b?c=%2F HTTP/1.1", body)
    assert {f"Host: 127.0.0.1:{wire.port}".encode(), b"webhook-id: msg_1", b"Connection: close"} <= set(lines)


def test_a_private_address_is_refused_without_a_connection(listen: Any) -> None:
    wire = listen()
    with pytest.raises(InvalidWebhook, match="not an address of the public internet"):
        post(Egress(resolve=resolves(["127.0.0.1"])), f"https://{NAME}/")
    for url in (f"https://127.0.0.1:{wire.port}/", f"http://127.0.0.1:{wire.port}/", f"https://[::1]:{wire.port}/"):
        with pytest.raises(InvalidWebhook):
            post(Egress(), url)
    assert wire.connections == 0


def test_one_private_address_among_public_ones_is_enough_to_refuse() -> None:
    for answers in (["1.1.1.1", "127.0.0.1"], ["2606:4700::1111", "::1"], ["1.1.1.1", "64:ff9b::7f00:1"]):
        with pytest.raises(InvalidWebhook):
            post(Egress(resolve=resolves(answers)), f"https://{NAME}/")


def test_a_name_that_changes_after_the_check_is_not_looked_up_again(
    listen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rebinding: the first answer is what may be reached, the next one what is attacked."""
    attacked = listen()
    looked_up: list[str] = []
    real = socket.getaddrinfo

    def watched(host: str, *rest: Any, **more: Any) -> Any:
        looked_up.append(host)
        return real(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", watched)
    near = [ipaddress.ip_network("127.0.0.2/32")]
    egress = Egress(networks=near, resolve=resolves(["127.0.0.2"], ["127.0.0.1"]))
    with pytest.raises(Unavailable, match="cannot be connected to"):  # nothing listens at 127.0.0.2
        post(egress, f"http://{NAME}:{attacked.port}/")
    with pytest.raises(InvalidWebhook):
        post(egress, f"http://{NAME}:{attacked.port}/")
    assert set(looked_up) == {"127.0.0.2"}
    assert attacked.connections == 0


def test_a_public_name_that_is_bound_to_loopback_reaches_nothing(listen: Any) -> None:
    wire = listen()
    egress = Egress(resolve=resolves(["1.1.1.1", "127.0.0.1"], ["127.0.0.1"]))
    for _ in range(2):
        with pytest.raises(InvalidWebhook):
            post(egress, f"https://{NAME}:8443/")
    assert wire.connections == 0


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(listen: Any, status: int) -> None:
    attacked = listen()
    places = ["http://169.254.169.254/latest/meta-data", f"http://127.0.0.1:{attacked.port}/"]
    for place in places:
        wire = listen(f"HTTP/1.1 {status} Go\r\nLocation: {place}\r\nContent-Length: 0\r\n\r\n".encode())
        assert post(Egress(networks=[LOOPBACK]), f"http://127.0.0.1:{wire.port}/") == status
        assert wire.connections == 1
    assert attacked.connections == 0


def test_a_proxy_in_the_environment_is_not_used(listen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    wire, proxy = listen(), listen()
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
    assert post(Egress(networks=[LOOPBACK]), f"http://127.0.0.1:{wire.port}/") == 200
    assert (wire.connections, proxy.connections) == (1, 0)


def drips(first: bytes) -> Callable[[socket.socket], None]:
    """Says `first`, then one byte each tenth of a second, until nobody listens."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(first)
        never = threading.Event()
        while not never.wait(0.1):
            connection.sendall(b"x")

    return answer


def test_an_answer_whose_head_drips_is_cut_off(listen: Any) -> None:
    wire = listen(drips(b"HTTP/1.1 200 OK\r\nX-Slow: "))
    with pytest.raises(Unavailable, match=r"did not answer within 0\.6 s"):
        post(Egress(seconds=0.6, networks=[LOOPBACK]), f"http://127.0.0.1:{wire.port}/")


def test_an_answer_whose_body_drips_is_cut_off_with_its_status(listen: Any) -> None:
    wire = listen(drips(b"HTTP/1.1 500 No\r\nContent-Length: 1000000\r\n\r\n"))
    assert post(Egress(seconds=0.6, networks=[LOOPBACK]), f"http://127.0.0.1:{wire.port}/") == 500


def test_a_server_that_says_nothing_is_left(listen: Any) -> None:
    wire = listen(lambda connection: connection.recv(1))
    with pytest.raises(Unavailable, match=r"did not answer within 0\.3 s"):
        post(Egress(seconds=0.3, networks=[LOOPBACK]), f"http://127.0.0.1:{wire.port}/")


def test_endless_answers_are_read_up_to_a_bound(listen: Any) -> None:
    def floods(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            connection.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")

    wire = listen(floods)
    assert post(Egress(seconds=30, networks=[LOOPBACK]), f"http://127.0.0.1:{wire.port}/") == 200
    hints = b"HTTP/1.1 103 Early\r\nX: " + b"y" * 1000 + b"\r\n\r\n"

    def promises(connection: socket.socket) -> None:
        while True:
            connection.sendall(hints)

    endless = listen(promises)
    with pytest.raises(Unavailable, match=f"more than {MOST_ANSWER_BYTES} bytes"):
        post(Egress(seconds=30, networks=[LOOPBACK]), f"http://127.0.0.1:{endless.port}/")


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH_9.2\r\n", b"", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 200 OK\r\n"])
def test_what_is_not_http_is_told_as_such(listen: Any, answer: bytes) -> None:
    wire = listen(answer)
    with pytest.raises(Unavailable, match="no answer that is HTTP"):
        post(Egress(networks=[LOOPBACK]), f"http://127.0.0.1:{wire.port}/")


def test_a_name_without_an_address_is_told(unused_port: Callable[[], int]) -> None:
    def fails(host: str, port: int) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with pytest.raises(Unavailable, match=f"The name {NAME} has no address: Name or service not known"):
        post(Egress(resolve=fails), f"https://{NAME}/")
    with pytest.raises(Unavailable, match="has no address"):
        post(Egress(resolve=resolves([])), f"https://{NAME}/")
    with pytest.raises(Unavailable, match="cannot be connected to"):
        post(Egress(networks=[LOOPBACK]), f"http://127.0.0.1:{unused_port()}/")


def test_a_resolver_that_hangs_is_not_waited_for() -> None:
    forever = threading.Event()
    with pytest.raises(Unavailable, match=r"was not found within 0\.2 s"):
        post(Egress(seconds=0.2, resolve=lambda host, port: forever.wait(30) and ()), f"https://{NAME}/")
    forever.set()


def test_the_next_address_is_tried_when_one_does_not_answer(listen: Any) -> None:
    wire = listen()
    egress = Egress(networks=[LOOPBACK], resolve=resolves(["127.0.0.2", "127.0.0.1"]))
    assert post(egress, f"http://{NAME}:{wire.port}/") == 200


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of our own for NAME, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture
def secured(listen: Any, certificate: Path) -> Wire:
    """A server that speaks TLS and notes which name it was asked for."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    wire: Wire = listen(tls=context)
    context.sni_callback = lambda _socket, name, _context: wire.names.append(name)
    return wire


def test_tls_is_spoken_to_the_name_at_the_address_checked(secured: Wire, certificate: Path) -> None:
    trusting = ssl.create_default_context(cafile=str(certificate))
    egress = Egress(networks=[LOOPBACK], resolve=resolves(["127.0.0.1"]), tls=trusting)
    assert post(egress, f"https://{NAME}:{secured.port}/") == 200
    assert secured.names == [NAME]
    assert f"Host: {NAME}:{secured.port}".encode() in secured.requests[0].split(b"\r\n")


def test_a_certificate_of_another_name_or_of_nobody_known_is_refused(secured: Wire, certificate: Path) -> None:
    trusting = ssl.create_default_context(cafile=str(certificate))
    egress = Egress(networks=[LOOPBACK], resolve=resolves(["127.0.0.1"]), tls=trusting)
    with pytest.raises(Unavailable, match=r"certificate is not valid for 'other\.example\.com'"):
        post(egress, f"https://other.example.com:{secured.port}/")
    strict = Egress(networks=[LOOPBACK], resolve=resolves(["127.0.0.1"]))
    with pytest.raises(Unavailable, match="certificate verify failed"):
        post(strict, f"https://{NAME}:{secured.port}/")
    assert secured.requests == []


def test_a_handshake_that_never_ends_is_cut_off() -> None:
    silent = socket.create_server(("127.0.0.1", 0))
    with silent, pytest.raises(Unavailable, match=r"did not answer within 0\.3 s"):
        egress = Egress(seconds=0.3, networks=[LOOPBACK], resolve=resolves(["127.0.0.1"]))
        post(egress, f"https://{NAME}:{silent.getsockname()[1]}/")
