"""
Keep downloads off private networks: the address that a connection really has decides, not its name.

URLs of media come from a server, and workers stand inside networks that it must not reach (a cloud's metadata
service, a database's console). A look at DNS before connecting could be raced, so the socket is asked.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any
from urllib.parse import urlsplit

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from musicapi_provider.exceptions import MusicAPIStorageError

Address = IPv4Address | IPv6Address

#: Networks without IPv4 reach it through these addresses (RFC 6052); the last 32 bits are the real one.
_NAT64 = IPv6Network("64:ff9b::/96")


def is_private(address: Address) -> bool:
    """
    Tell whether an address belongs to this machine, a private network or nobody.

    100.64.0.0/10 does not: behind carrier-grade NAT, and with the zero-trust clients of many companies,
    public names resolve to it.
    """
    address = _embedded(address)
    return (
        address.is_loopback
        or address.is_private
        or address.is_link_local
        or address.is_multicast
        or address.is_unspecified
        or address.is_reserved
        or getattr(address, "is_site_local", False)
    )


def _embedded(address: Address) -> Address:
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address


def literal(host: str | None) -> Address | None:
    """Return the address that a URL's host spells out, in any notation that a resolver takes; else none."""
    host = (host or "").rstrip(".").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return IPv4Address("127.0.0.1")
    try:
        return ip_address(host)
    except ValueError:
        pass
    try:
        return IPv4Address(socket.inet_aton(host))  # 127.1, 0x7f000001, 2130706433
    except OSError:
        return None


class PrivateAddressError(MusicAPIStorageError):
    """A URL leads where no media may come from."""


class AddressGuard:
    """
    Refuse private addresses, except those of the API itself: the simulator is on one.

    :param base_url: The API's address, from the connection, so it is trusted.
    :param allow_private: Refuse nothing.
    """

    def __init__(self, base_url: str, *, allow_private: bool) -> None:
        self._own_host = urlsplit(base_url).hostname
        self._allow_private = allow_private

    def check_url(self, url: str) -> None:
        """
        Refuse a URL that spells out a private address; this also holds behind a proxy.

        :raises PrivateAddressError: it does.
        """
        host = urlsplit(url).hostname
        address = literal(host)
        if address is not None and host != self._own_host:
            self._check(address, url)

    def check_socket(self, connected: socket.socket, host: str) -> socket.socket:
        """
        Refuse a connection to a private address before anything is sent.

        :raises PrivateAddressError: it is one; the connection is closed.
        """
        try:
            if host != self._own_host:
                self._check(ip_address(connected.getpeername()[0]), host)
        except BaseException:
            connected.close()
            raise
        return connected

    def _check(self, address: Address, what: str) -> None:
        if self._allow_private or not is_private(address) or address in self._own_addresses:
            return
        raise PrivateAddressError(
            f"{what} leads to the private address {address}, where no media may come from.",
            next_step="if your media host really stands in a private network, turn on allow_private_media in "
            "the Airflow connection; else tell the vendor.",
        )

    @cached_property
    def _own_addresses(self) -> frozenset[Address]:
        try:
            found = socket.getaddrinfo(self._own_host, None, type=socket.SOCK_STREAM)
        except OSError:  # only a proxy knows the name
            return frozenset()
        return frozenset(ip_address(entry[4][0]) for entry in found)


class GuardedAdapter(HTTPAdapter):
    """An adapter of requests whose direct connections pass the guard; a proxy's are the proxy's business."""

    def __init__(self, guard: AddressGuard, *, connections: int) -> None:
        self._pools = _guarded_pools(guard.check_socket)
        super().__init__(pool_maxsize=connections)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the pools of direct connections guarded ones."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._pools


def _guarded_pools(check: Callable[[socket.socket, str], socket.socket]) -> dict[str, type]:
    """Return pools whose sockets are checked; urllib3 makes them in ``_new_conn`` alone, which is private."""

    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return check(super()._new_conn(), self.host)

    class Secure(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return check(super()._new_conn(), self.host)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}
