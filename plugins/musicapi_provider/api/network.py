"""
How a request leaves: with which headers, by which proxy, and which certificates count.

Both clients go the way that is decided here. Nothing is sent from here.
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase
from requests.utils import DEFAULT_CA_BUNDLE_PATH, get_environ_proxies, select_proxy

from musicapi_provider.exceptions import MusicAPIConfigurationError

if TYPE_CHECKING:
    from musicapi_provider.api.settings import ClientSettings

#: Variables that name a CA bundle, in the order of requests.
CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


class BearerAuth(AuthBase):
    """Set the Authorization header as late as possible, above any ``.netrc`` entry or header setting."""

    def __init__(self, api_key: str) -> None:
        self._api_key = api_key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add the header."""
        request.headers["Authorization"] = f"Bearer {self._api_key}"
        return request


def headers_of(settings: ClientSettings) -> dict[str, str]:
    """Return the headers of every request but the key; only encodings that :mod:`.answers` reads."""
    return {
        "User-Agent": requests.utils.default_user_agent(),
        "Accept": "application/json",
        **settings.headers,
        "Accept-Encoding": "gzip, deflate",
    }


@dataclass(frozen=True, slots=True)
class Network:
    """
    The way to one URL.

    :param proxy: URL of the proxy; ``None``: direct.
    :param verify: Whether to check the server's certificate, or the CA bundle (file or folder) to check by.
    :param cert: Client certificate file, or a (certificate, key) pair of files.
    """

    proxy: str | None
    verify: bool | str
    cert: str | tuple[str, str] | None

    @property
    def proxies(self) -> dict[str, str]:
        """The proxy as requests takes it."""
        return {"all": self.proxy} if self.proxy else {}

    def ssl_context(self) -> ssl.SSLContext:
        """Read the certificate files, as requests would; it blocks."""
        bundle = self.verify if isinstance(self.verify, str) else DEFAULT_CA_BUNDLE_PATH
        folder = Path(bundle).is_dir()
        context = ssl.create_default_context(
            cafile=None if folder else bundle, capath=bundle if folder else None
        )
        if self.verify is False:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.cert is not None:
            cert, key = (self.cert, None) if isinstance(self.cert, str) else self.cert
            context.load_cert_chain(cert, key, password=lambda: "")  # or OpenSSL asks at the terminal
        return context


def network_of(settings: ClientSettings, url: str) -> Network:
    """
    Decide the way to a URL; the connection's settings go before the environment's.

    As in requests, ``http_proxy``, ``https_proxy``, ``all_proxy`` and ``no_proxy`` count in either case, a
    proxy without a scheme is a http one, and ``REQUESTS_CA_BUNDLE`` or ``CURL_CA_BUNDLE`` names the CAs
    where the connection says no more than "check". Nothing of it counts where ``trust_env`` is off. An empty
    proxy of the connection means: none.
    """
    proxy = select_proxy(url, dict(settings.proxies))
    verify: bool | str = settings.verify
    if settings.trust_env:
        if proxy is None:
            proxy = select_proxy(url, get_environ_proxies(url, no_proxy=settings.proxies.get("no_proxy")))
        if verify is True:
            verify = next((path for name in CA_VARIABLES if (path := os.environ.get(name))), True)
    if proxy and "://" not in proxy:
        proxy = f"http://{proxy}"
    return Network(proxy or None, verify, settings.cert)


def checked_network(settings: ClientSettings) -> Network:
    """
    Return the way to the API, once it is known that it can be taken.

    :raises MusicAPIConfigurationError: a proxy that is none, a certificate file that is missing or unusable.
    """
    network = network_of(settings, settings.base_url)
    if network.proxy is not None and not _is_proxy(network.proxy):
        raise MusicAPIConfigurationError(
            f"The proxy for connection {settings.name!r} is no http or https URL.",
            next_step="correct the connection's proxies, or the environment's.",
        )
    certs = (network.cert,) if isinstance(network.cert, str) else network.cert or ()
    named = [*((f"cert of connection {settings.name!r}", path) for path in certs)]
    if isinstance(network.verify, str) and network.verify == settings.verify:
        named.append((f"verify of connection {settings.name!r}", network.verify))
    elif isinstance(network.verify, str) and not settings.allow_http_audio:
        named.append((" or ".join(CA_VARIABLES), network.verify))
    for name, path in named:
        if not Path(path).exists():
            raise _unusable_file(f"{name} names {path!r}, which does not exist here.")
    try:
        if named:
            network.ssl_context()
    except (OSError, ValueError) as error:
        names = " and ".join(f"{path!r} ({name})" for name, path in named)
        raise _unusable_file(f"Certificates cannot be read from {names}: {error}.") from error
    return network


def _unusable_file(message: str) -> MusicAPIConfigurationError:
    return MusicAPIConfigurationError(
        message, next_step="correct the path in the connection's extra, or install the file on every worker."
    )


def _is_proxy(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
