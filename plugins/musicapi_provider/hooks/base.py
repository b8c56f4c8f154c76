"""
The hook without HttpHook: what operators, sensors and triggers use.

Importing HttpHook brings aiohttp: 0.08 s of CPU in every worker process, of which a mapped row has three.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook, Connection
from airflow.sdk.exceptions import AirflowNotFoundException
from airflow.sdk.log import amask_secret, mask_secret

from musicapi_provider.api.client import MusicAPIClient, new_session
from musicapi_provider.api.settings import DEFAULT_CONN_ID, ClientSettings, RetrySettings
from musicapi_provider.exceptions import MusicAPIConfigurationError, MusicAPIError
from musicapi_provider.hooks.connection import settings_from
from musicapi_provider.waiting.wait import wait_for_tracks

if TYPE_CHECKING:
    import requests

    from musicapi_provider.api.async_client import MusicAPIAsyncClient
    from musicapi_provider.api.models import Credits, MusicTask, Track

#: Environment variables of the vendor's own SDK (facts 1); used when the default connection is missing.
KEY_VARIABLE = "MUSICAPI_KEY"
BASE_URL_VARIABLE = "MUSICAPI_BASE_URL"


class MusicAPIBaseHook(BaseHook):
    """
    Talk to MusicAPI by an Airflow connection.

    :class:`~musicapi_provider.hooks.musicapi.MusicAPIHook` is the one for users: it is an HttpHook as well,
    and says what the arguments mean.
    """

    conn_name_attr = "musicapi_conn_id"
    default_conn_name = DEFAULT_CONN_ID
    conn_type = "musicapi"
    hook_name = "MusicAPI"

    def __init__(
        self,
        musicapi_conn_id: str = default_conn_name,
        *,
        retries: RetrySettings | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.musicapi_conn_id = musicapi_conn_id
        self._retries = retries
        self._async_client: MusicAPIAsyncClient | None = None
        #: The last music task that :meth:`create` bought.
        self._bought: str | None = None

    # -- connection ----------------------------------------------------------------------------------------

    @classmethod
    def get_connection(cls, conn_id: str) -> Connection:
        """
        Return the connection, or one made of ``MUSICAPI_KEY`` when the default connection does not exist.

        :raises MusicAPIConfigurationError: neither exists; the text says how to make one.
        """
        try:
            return super().get_connection(conn_id)
        except AirflowNotFoundException as error:
            connection = cls._connection_from_environment(conn_id, error)
            mask_secret(connection.password)
            return connection

    @classmethod
    async def aget_connection(cls, conn_id: str) -> Connection:
        """Return the connection without blocking the event loop; see :meth:`get_connection`."""
        try:
            return await super().aget_connection(conn_id)
        except AirflowNotFoundException as error:
            connection = cls._connection_from_environment(conn_id, error)
            await amask_secret(connection.password)
            return connection

    @classmethod
    def _connection_from_environment(cls, conn_id: str, error: Exception) -> Connection:
        key = os.environ.get(KEY_VARIABLE)
        if key and conn_id == cls.default_conn_name:
            return Connection(
                conn_id=conn_id, conn_type=cls.conn_type, password=key, host=os.environ.get(BASE_URL_VARIABLE)
            )
        hint = f", or set {KEY_VARIABLE}" if conn_id == cls.default_conn_name else ""
        raise MusicAPIConfigurationError(
            f"The Airflow connection {conn_id!r} does not exist.",
            next_step="create it with your API key as the password: Admin > Connections in the UI, or "
            f"airflow connections add {conn_id} --conn-type {cls.conn_type} --conn-password <key>{hint}.",
        ) from error

    @cached_property
    def settings(self) -> ClientSettings:
        """What the connection says, checked."""
        settings = settings_from(self.get_connection(self.musicapi_conn_id))
        for secret in settings.webhook.secrets if settings.webhook else ():
            mask_secret(secret)  # Airflow masks the extra as a whole, which may be several
        return settings

    @property
    def account(self) -> str:
        """What is paid from: connection and API; a purchase at one is none at another."""
        return f"{self.musicapi_conn_id}@{self.settings.base_url}"

    async def asettings(self) -> ClientSettings:
        """Return :attr:`settings` without blocking the event loop."""
        if "settings" not in self.__dict__:
            settings = settings_from(await self.aget_connection(self.musicapi_conn_id))
            for secret in settings.webhook.secrets if settings.webhook else ():
                await amask_secret(secret)
            self.__dict__["settings"] = settings
        return self.settings

    # -- clients -------------------------------------------------------------------------------------------

    @cached_property
    def client(self) -> MusicAPIClient:
        """The synchronous client, with one session for the life of this hook."""
        return MusicAPIClient(self.settings, session=self.get_conn(), retries=self._retries)

    def get_conn(self) -> requests.Session:
        """Return a session with the connection's key, proxies, certificates and headers."""
        return new_session(self.settings)

    async def aclient(self) -> MusicAPIAsyncClient:
        """Return the asynchronous client of this hook; close it with :meth:`aclose`."""
        from musicapi_provider.api.async_client import MusicAPIAsyncClient  # a worker does without

        if self._async_client is None:
            self._async_client = MusicAPIAsyncClient(await self.asettings(), retries=self._retries)
        return self._async_client

    async def aclose(self) -> None:
        """Close the asynchronous client's session."""
        if self._async_client is not None:
            await self._async_client.close()

    # -- the API -------------------------------------------------------------------------------------------

    def create(self, body: Mapping[str, object]) -> str:
        """
        Submit a music task and return its id; see :meth:`MusicAPIClient.create`. This buys.

        .. note::
            A bare call keeps no record: a retry of the task around it buys again.
            ``MusicAPICreateOperator`` keeps one.
        """
        self._bought = self.client.create(body)
        return self._bought

    def get_task(self, music_task_id: str) -> MusicTask:
        """Poll a music task; free. See :meth:`MusicAPIClient.get_task`."""
        with self._not_again():
            return self.client.get_task(music_task_id)

    def get_credits(self) -> Credits:
        """Read the balance; free. See :meth:`MusicAPIClient.get_credits`."""
        with self._not_again():
            return self.client.get_credits()

    def expected_credits(self, body: Mapping[str, object]) -> float:
        """Return the credits that a request body will probably cost (facts 8); asks nobody."""
        return self.settings.expected_credits(body)

    def request(
        self, method: str, path: str, *, json: object = None, params: Mapping[str, object] | None = None
    ) -> Any:
        """Call any other endpoint; see :meth:`MusicAPIClient.request`."""
        with self._not_again():
            return self.client.request(method, path, json=json, params=params)

    @contextmanager
    def _not_again(self) -> Iterator[None]:
        """Let no error ask for a retry of a task that has bought something: the retry would buy again."""
        try:
            yield
        except MusicAPIError as error:
            if self._bought is None or not error.retryable:
                raise
            raise error.but(
                retryable=False,
                next_step=f"music task {self._bought} was bought before this failed; collect it with "
                "MusicAPITaskSensor. Trying this task again would buy again.",
            ) from error

    def failure_of(self, music_task_id: str) -> str | None:
        """Return why a music task is known to have failed; see :meth:`MusicAPIClient.failure_of`."""
        return self.client.failure_of(music_task_id)

    def fresh_tracks(self, music_task_id: str) -> Sequence[Track]:
        """Return a music task's tracks as they are now, fresh URLs included; free."""
        return self.get_task(music_task_id).tracks

    def wait_for_tracks(
        self, music_task_id: str | list[str], *, timeout: float = 1800.0, fail_on_partial: bool = False
    ) -> list[dict[str, object]]:
        """
        Block until the music tasks are done and return their tracks, as the sensor does.

        :param timeout: Seconds; default 30 minutes, since most music tasks need one or two (facts 1).
        :raises MusicAPIError: failed, or still running at the end of the time.
        """
        ids = [music_task_id] if isinstance(music_task_id, str) else list(music_task_id)
        with self._not_again():
            tracks = wait_for_tracks(
                self.client,
                ids,
                timeout=timeout,
                poll_interval=self.settings.poll_interval,
                fail_on_partial=fail_on_partial,
            )
        return [track.as_dict() for track in tracks]

    async def acreate(self, body: Mapping[str, object]) -> str:
        """Asynchronous twin of :meth:`create`."""
        return await (await self.aclient()).create(body)

    async def aget_task(self, music_task_id: str) -> MusicTask:
        """Asynchronous twin of :meth:`get_task`."""
        return await (await self.aclient()).get_task(music_task_id)

    async def aget_credits(self) -> Credits:
        """Asynchronous twin of :meth:`get_credits`."""
        return await (await self.aclient()).get_credits()

    async def arequest(
        self, method: str, path: str, *, json: object = None, params: Mapping[str, object] | None = None
    ) -> Any:
        """Asynchronous twin of :meth:`request`."""
        return await (await self.aclient()).request(method, path, json=json, params=params)

    def test_connection(self) -> tuple[bool, str]:
        """
        Read the balance, which is free; called by the Test button.

        :return: Whether it worked, and the balance, or which of key, base URL and network is wrong.
        """
        from musicapi_provider.hooks.button import tested  # only the API server has the button

        return tested(self, self._retries)
