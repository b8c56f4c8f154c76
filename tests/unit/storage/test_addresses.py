"""Which addresses media may come from."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from ipaddress import ip_address

import pytest
import requests

from musicapi_provider.storage.addresses import (
    AddressGuard,
    GuardedAdapter,
    PrivateAddressError,
    is_private,
    literal,
)

PUBLIC = "https://api.musicapi.ai/api/v1"


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        pytest.param("127.0.0.1", True, id="loopback"),
        pytest.param("10.1.2.3", True, id="10"),
        pytest.param("172.16.0.1", True, id="172.16"),
        pytest.param("192.168.1.1", True, id="192.168"),
        pytest.param("169.254.169.254", True, id="link-local: a cloud's metadata"),
        pytest.param("0.0.0.0", True, id="unspecified"),  # noqa: S104 - not bound, refused
        pytest.param("224.0.0.1", True, id="multicast"),
        pytest.param("240.0.0.1", True, id="reserved"),
        pytest.param("255.255.255.255", True, id="broadcast"),
        pytest.param("::1", True, id="loopback 6"),
        pytest.param("::", True, id="unspecified 6"),
        pytest.param("fe80::1", True, id="link-local 6"),
        pytest.param("fe80::1%eth0", True, id="link-local 6 with its zone"),
        pytest.param("fc00::1", True, id="unique local 6"),
        pytest.param("fec0::1", True, id="site-local 6"),
        pytest.param("ff02::1", True, id="multicast 6"),
        pytest.param("::ffff:10.0.0.1", True, id="private, mapped"),
        pytest.param("64:ff9b::a00:1", True, id="private, by NAT64"),
        pytest.param("2002:a00:1::1", True, id="private, by 6to4"),
        pytest.param("8.8.8.8", False, id="public"),
        pytest.param("100.64.0.1", False, id="carrier-grade NAT, zero-trust clients"),
        pytest.param("2606:4700::1", False, id="public 6"),
        pytest.param("::ffff:8.8.8.8", False, id="public, mapped"),
        pytest.param("64:ff9b::808:808", False, id="public, by NAT64"),
    ],
)
def test_private(address: str, expected: bool) -> None:
    """An IPv4 address inside an IPv6 one counts as itself."""
    assert expected is is_private(ip_address(address))


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("0x7f000001", "127.0.0.1"),
        ("0177.0.0.1", "127.0.0.1"),
        ("10.0.0.1.", "10.0.0.1"),
        ("localhost", "127.0.0.1"),
        ("LOCALHOST.", "127.0.0.1"),
        ("a.localhost", "127.0.0.1"),
        ("::1", "::1"),
        ("cdn1.suno.ai", None),
        ("", None),
        (None, None),
    ],
)
def test_literal(host: str | None, expected: str | None) -> None:
    """Every notation that a resolver takes for an address is understood."""
    assert expected == (None if (found := literal(host)) is None else str(found))


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Return a socket that listens on 127.0.0.1 and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.fixture
def get() -> Iterator[Callable[..., requests.Response]]:
    """Return a function that gets a URL through a guard."""
    with requests.Session() as session:

        def get_through(guard: AddressGuard, url: str) -> requests.Response:
            session.mount("http://", GuardedAdapter(guard, connections=2))
            return session.get(url, timeout=0.3)

        yield get_through


def test_name_that_leads_to_a_private_address_is_refused_before_anything_is_sent(
    listener: socket.socket, get: Callable[..., requests.Response], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look at DNS could be raced; the connected socket cannot."""
    genuine = socket.getaddrinfo
    names = {"cdn.example": "127.0.0.1"}
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *args, **more: genuine(names.get(host, host), *args, **more)
    )
    guard = AddressGuard(PUBLIC, allow_private=False)
    url = f"http://cdn.example:{listener.getsockname()[1]}/song.mp3"
    guard.check_url(url)
    with pytest.raises(PrivateAddressError, match=r"cdn\.example leads to the private address 127\.0\.0\.1"):
        get(guard, url)
    listener.settimeout(1)
    connected, _ = listener.accept()

    assert connected.recv(100) == b""


@pytest.mark.parametrize("base_url", ["http://127.0.0.1:1/api/v1", "http://localhost:1/api/v1"])
def test_address_of_the_api_itself_is_allowed(
    base_url: str, listener: socket.socket, get: Callable[..., requests.Response]
) -> None:
    """The simulator is on one, by whatever name."""
    guard = AddressGuard(base_url, allow_private=False)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/song.mp3"
    guard.check_url(url)
    with pytest.raises(requests.ReadTimeout):
        get(guard, url)

    with pytest.raises(PrivateAddressError):
        guard.check_url("http://127.0.0.2/song.mp3")


def test_private_media_can_be_allowed(listener: socket.socket, get: Callable[..., requests.Response]) -> None:
    """For a media host inside one's own network."""
    guard = AddressGuard(PUBLIC, allow_private=True)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/song.mp3"
    guard.check_url(url)

    with pytest.raises(requests.ReadTimeout):
        get(guard, url)


def test_api_whose_name_only_a_proxy_knows_has_no_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing private is its own then."""
    monkeypatch.setattr(socket, "getaddrinfo", _unknown)
    guard = AddressGuard(PUBLIC, allow_private=False)

    with pytest.raises(PrivateAddressError):
        guard.check_url("http://10.0.0.1/song.mp3")


def _unknown(*_: object, **__: object) -> None:
    raise socket.gaierror("unknown")
