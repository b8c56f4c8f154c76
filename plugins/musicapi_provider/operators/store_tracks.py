"""
The operator that stores tracks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from musicapi_provider.api.models import Track
from musicapi_provider.api.settings import DEFAULT_CONN_ID
from musicapi_provider.exceptions import MusicAPIInvalidRequestError
from musicapi_provider.links.extra_links import MusicAPICoverLink, MusicAPIListenLink, MusicAPITracksLink
from musicapi_provider.operators.control_flow import TalksToAPI, airflow_errors
from musicapi_provider.operators.storing import orders_of, store_tracks
from musicapi_provider.storage import DEFAULT_CONCURRENCY, DEFAULT_MAX_BYTES

if TYPE_CHECKING:
    from airflow.sdk import Context, XComArg


class MusicAPIStoreTracksOperator(TalksToAPI):
    """
    Download tracks and store them, checked, in any object storage. Costs no credits; safe to repeat.

    Each track is streamed at constant memory to a temporary name in ``.incomplete/``, checked, then moved to
    ``{clip_id}.mp3`` (or the format's suffix), with a JSON sidecar ``{clip_id}.json`` beside it that holds
    everything known of it. A track whose sidecar and file are there is not downloaded again; after a kill at
    any instant the next run cleans up and goes on. Names come from ids, never from titles; ``index.csv``
    beside them is for people.

    Refused are: HTTP errors, redirects away from https or to private addresses, other content types, HTML
    pages, wrong first bytes, empty, cut or too large bodies, streaming previews, and what is not readable as
    audio. A broken download is resumed where the host can, else repeated. Where the host answers 403, 404 or
    410, the music task is read again, which is free, and its fresh URL is tried. The API key never goes to a
    media host.

    Returns (XCom) one record per track: ``clip_id, music_task_id, title, audio_url, uri, bytes, sha256,
    duration`` (seconds, measured)``, content_type`` (and ``prompt_id``, ``cover_uri`` where given). If the
    operator has outlets, each gets an asset event with ``tracks`` and ``bytes`` counts.

    :param tracks: Track dicts as the sensor returns them (templated).
    :param destination: Folder as an object storage URI, such as ``s3://aws_default@bucket/music``
        (templated).
    :param musicapi_conn_id: Its proxies and certificates serve the download, and its key serves to read an
        expired track again; the key never goes to a media host (templated).
    :param store_cover: Also store the cover image as ``{clip_id}.jpeg``; a missing one is a warning.
    :param embed_tags: Write title, genre, ids, lyrics and the stored cover into the audio file, for players.
    :param max_bytes: Refuse a body larger than this; default 200 MiB, eight minutes of WAV are 90.
    :param concurrency: Downloads at a time.
    :param prompt_id: The prompt table's row that this belongs to (templated).
    :param submission: What the create knows of the purchase, ``create.output["submission"]``, or a list of
        such: body and credits of a track's music task go into its sidecar, and so into ``index.csv`` and the
        tracks page (templated).
    :raises MusicAPIStorageError: a media host's answer is not the audio it should be, or the storage refuses;
        raised after all other tracks are stored.
    """

    template_fields: Sequence[str] = ("tracks", "destination", "musicapi_conn_id", "prompt_id", "submission")
    template_fields_renderers: ClassVar[dict[str, str]] = {"tracks": "json", "submission": "json"}
    operator_extra_links = (MusicAPIListenLink(), MusicAPICoverLink(), MusicAPITracksLink())
    ui_color = "#e8def8"
    destination: str

    def __init__(
        self,
        *,
        tracks: Sequence[Mapping[str, object]] | XComArg,
        destination: str,
        musicapi_conn_id: str = DEFAULT_CONN_ID,
        store_cover: bool = False,
        embed_tags: bool = False,
        max_bytes: int = DEFAULT_MAX_BYTES,
        concurrency: int = DEFAULT_CONCURRENCY,
        prompt_id: str | None = None,
        submission: Mapping[str, object] | Sequence[Mapping[str, object]] | XComArg | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if concurrency < 1:
            raise ValueError(f"concurrency must be 1 or more; got {concurrency!r}")
        self.tracks: object = tracks  # a list once rendered
        self.destination = destination
        self.musicapi_conn_id = musicapi_conn_id
        self.store_cover = store_cover
        self.embed_tags = embed_tags
        self.max_bytes = max_bytes
        self.concurrency = concurrency
        self.prompt_id = prompt_id
        self.submission: object = submission  # mappings once rendered

    def execute(self, context: Context) -> list[dict[str, object]]:
        """Store what is not stored yet and return a record per track."""
        with airflow_errors():
            tracks, orders = _tracks(self.tracks), orders_of(self.submission)
            self.stored_records = store_tracks(
                self, context, tracks, orders, max_bytes=self.max_bytes, concurrency=self.concurrency
            )
        return self.stored_records


def _tracks(value: object) -> list[Track]:
    """Return the tracks argument, which must be a list of dicts once rendered."""
    if isinstance(value, Sequence) and all(isinstance(track, Mapping) for track in value):
        return [Track.from_dict(track) for track in value]
    raise MusicAPIInvalidRequestError(
        f"tracks: must be a list of tracks as the sensor returns it; got {str(value)[:60]!r}.",
        next_step="pass tracks=sensor.output (a template makes text of a list).",
    )
