"""
The operator that buys music.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from airflow.sdk import conf

from musicapi_provider.api.models import Track
from musicapi_provider.api.settings import DEFAULT_CONN_ID
from musicapi_provider.ledgers.assets import with_purchases
from musicapi_provider.ledgers.choice import folder_of_records
from musicapi_provider.links import xcoms
from musicapi_provider.links.extra_links import (
    MusicAPICoverLink,
    MusicAPIListenLink,
    MusicAPIMusicTaskLink,
    MusicAPITracksLink,
)
from musicapi_provider.operators.arguments import check_policy, open_folder, seconds_of
from musicapi_provider.operators.control_flow import DEFAULT_TIMEOUT, airflow_errors
from musicapi_provider.operators.purchasing import API_FIELDS, BuysMusic
from musicapi_provider.purchases import PurchaseState, PurchaseStatus, status_of
from musicapi_provider.triggers.events import BEGIN
from musicapi_provider.waiting.wait import Wait, wait_for_tracks

if TYPE_CHECKING:
    from airflow.sdk import Context, XComArg


class MusicAPICreateOperator(BuysMusic):
    """
    Submit a music task: this buys (15 credits for most task types, 2 for ``concat_music``; facts 8).

    Returns (XCom) the music task id as a string. With ``wait_for_completion`` it returns the tracks, as
    :class:`~musicapi_provider.sensors.musicapi.MusicAPITaskSensor` does, and the id stands under the key
    ``music_task_id``. Under the key ``submission`` stands what is known of the purchase, for a store task:
    ``state`` (``submitted``, ``unknown outcome``, ``not submitted``), ``music_task_id``, ``credits`` (spent,
    at expected prices; ``None`` while nobody knows whether it was paid), ``lost_credits`` (what creates whose
    answers were lost may have cost beside that), ``prompt_id`` and ``body`` (without ``extra_body``).

    The body is checked before anything is sent: every wrong field is named with its value and rule. Give the
    fields as arguments, or a whole body as ``body`` (a row of a prompt table). ``task_type`` defaults to
    ``create_music``, ``mv`` to ``sonic-v5``, ``custom_mode`` to true unless only a
    ``gpt_description_prompt`` is given.

    .. note::
        **Retries and clears never pay twice in silence.** A record of the order is written before the request
        leaves. Whoever places the same order later in the dag run, at whatever map index, collects what was
        bought; if the answer was lost it ends with an error that names the evidence (see
        ``on_unknown_outcome``). A changed body is a new purchase, and so is the same body twice in one
        expansion. A music task that failed, and was hence refunded, is bought anew by the next try.

    .. seealso:: ``musicapi-facts.md`` 2 for the fields and limits, 5 for why a create is never resent.

    :param musicapi_conn_id: Airflow connection (templated).
    :param body: A whole request body; a field given here and as an argument is an error (templated, except
        text that comes from another task, which is data).
    :param extra_body: Fields that this version does not know, sent unchecked (templated).
    :param music_task_type: The API's ``task_type``: one of ten operations (facts 2.1). Airflow owns the word
        ``task_type`` on every operator (templated, as all API fields below).
    :param mv: Model, such as ``sonic-v5``; unknown names are sent with a warning, since the list grows.
    :param custom_mode: True: ``prompt`` holds lyrics. False: ``gpt_description_prompt`` describes the song.
    :param prompt: Lyrics, or the brief with ``auto_lyrics``; 3,000 or 5,000 characters by model.
    :param lyrics: Alternative to ``prompt``.
    :param gpt_description_prompt: What the song shall be, 400 characters.
    :param title: 80 characters.
    :param tags: Styles, comma separated; 200 or 1,000 characters by model.
    :param negative_tags: Styles to avoid.
    :param make_instrumental: No singing.
    :param auto_lyrics: Let the API write lyrics from ``prompt``; needs ``custom_mode``.
    :param vocal_gender: ``f`` or ``m``; ``sonic-v4-5`` and later.
    :param style_weight: 0 to 1.
    :param weirdness_constraint: 0 to 1.
    :param audio_weight: 0 to 1; higher stays closer to the source.
    :param continue_clip_id: The clip to extend, cover, join or remaster.
    :param continue_at: Seconds at which an extension begins.
    :param persona_id: Voice for ``persona_music``.
    :param variation_category: ``subtle``, ``normal`` or ``high``, for ``remaster``.
    :param overpainting_start_s: Seconds, for ``add_vocals`` and ``add_instrumental``.
    :param overpainting_end_s: Seconds, after the start.
    :param use_suno_cdn: Passed through; optional by observation (facts 2.2).
    :param duration: Whole seconds, 10 to 360; passed through, not documented for this API (facts 2.2).
    :param wait_for_completion: Wait for the tracks and return them.
    :param destination: Also store the tracks in this folder, an object storage URI, and return the stored
        records instead, as :class:`~musicapi_provider.operators.store_tracks.MusicAPIStoreTracksOperator`
        does: one task from prompt to file. Needs ``wait_for_completion``; the task then always ends on a
        worker. It is looked for before anything is paid; a retry, or a clear, stores what is missing and
        buys nothing (templated).
    :param store_cover: Also store the cover images; with ``destination``.
    :param embed_tags: Write title, styles, ids, lyrics and cover into the audio files; with ``destination``.
    :param deferrable: Wait in the triggerer. Default: Airflow's ``default_deferrable``.
    :param poll_interval: Seconds between polls. Default: the connection's, else adaptive.
    :param timeout: Seconds to wait for the tracks, in each try. Default 30 minutes.
    :param fail_on_partial: Fail when some clips failed and others succeeded. Default: return what succeeded.
    :param include_lyrics: Also return lyrics.
    :param adopt_music_task_id: Collect this existing music task instead of paying (templated). ``None``: buy.
        The text of an empty template is refused, as it may be the slip of somebody who does not want to pay;
        ``render_template_as_native_obj`` on the DAG makes ``None`` of an empty param.
    :param on_unknown_outcome: ``fail`` (default): an earlier create whose answer was lost ends the task, a
        human decides by the evidence in the message. ``resubmit``: each of Airflow's retries sends it again,
        and may pay again (templated).
    :param force_new: Pay again on purpose: once for each clear of the task, and only when what was bought
        before is finished. Retries still collect.
    :param credit_check: Send only what the balance covers, by the expected price; an unreadable balance then
        is an error for Airflow's retries. Off by default: the API refuses unpaid by itself (402, 403), and
        prices change without notice (facts 8). The balance is read in any case, as evidence should the
        answer be lost; that is free.
    :param records: Folder, as an object storage URI, whose ``purchases/`` keep the purchase on record beyond
        the dag run, by ``prompt_id`` or else body: a later run, or another DAG, collects it (templated).
        Default: ``[musicapi] records`` of Airflow's configuration, if set; else, or with ``False``, the dag
        run keeps it, in the state of asset ``musicapi_purchases``, which becomes an inlet of the task.
    :param prompt_id: The prompt table's row that this belongs to, for records, labels and logs (templated).
    :param webhook: Let the API call when the music task is done (docs/webhooks.md): a deferred task ends
        within a second of it, without polling; and when an answer was lost, the task waits for the call, up
        to ``timeout`` and 10 minutes at least: it tells whether that was booked. Default: as the connection
        says.
    :raises AirflowFailException: what a retry cannot cure: bad body, key, credits, content, unknown outcome,
        failed music task. Each message says whether credits were spent and what to do.
    :raises MusicAPIError: what a retry can cure; nothing was spent.
    """

    template_fields: Sequence[str] = (
        "musicapi_conn_id",
        "body",
        "extra_body",
        *API_FIELDS,
        "adopt_music_task_id",
        "on_unknown_outcome",
        "records",
        "prompt_id",
        "destination",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"body": "json", "extra_body": "json"}
    operator_extra_links = (
        *(MusicAPIListenLink(), MusicAPICoverLink(), MusicAPIMusicTaskLink(), MusicAPITracksLink()),
    )
    ui_color = "#e8def8"

    def __init__(
        self,
        *,
        musicapi_conn_id: str = DEFAULT_CONN_ID,
        body: Mapping[str, Any] | XComArg | None = None,
        extra_body: Mapping[str, Any] | None = None,
        music_task_type: str | None = None,
        mv: str | None = None,
        custom_mode: bool | str | None = None,
        prompt: str | None = None,
        lyrics: str | None = None,
        gpt_description_prompt: str | None = None,
        title: str | None = None,
        tags: str | None = None,
        negative_tags: str | None = None,
        make_instrumental: bool | str | None = None,
        auto_lyrics: bool | str | None = None,
        vocal_gender: Literal["f", "m"] | str | None = None,
        style_weight: float | str | None = None,
        weirdness_constraint: float | str | None = None,
        audio_weight: float | str | None = None,
        continue_clip_id: str | XComArg | None = None,
        continue_at: float | str | None = None,
        persona_id: str | None = None,
        variation_category: str | None = None,
        overpainting_start_s: float | str | None = None,
        overpainting_end_s: float | str | None = None,
        use_suno_cdn: bool | str | None = None,
        duration: int | str | None = None,
        wait_for_completion: bool = False,
        destination: str | None = None,
        store_cover: bool = False,
        embed_tags: bool = False,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        poll_interval: timedelta | float | None = None,
        timeout: timedelta | float = DEFAULT_TIMEOUT,
        fail_on_partial: bool = False,
        include_lyrics: bool = False,
        adopt_music_task_id: str | XComArg | None = None,
        on_unknown_outcome: Literal["fail", "resubmit"] | str = "fail",
        force_new: bool = False,
        credit_check: bool = False,
        records: str | Literal[False] | None = None,
        prompt_id: str | None = None,
        webhook: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        # Long, since Airflow renders templates by attribute: a line for each argument.
        self.musicapi_conn_id = musicapi_conn_id
        self.body: Any = body  # a mapping once rendered
        self.extra_body = extra_body
        self.music_task_type = music_task_type
        self.mv = mv
        self.custom_mode = custom_mode
        self.prompt = prompt
        self.lyrics = lyrics
        self.gpt_description_prompt = gpt_description_prompt
        self.title = title
        self.tags = tags
        self.negative_tags = negative_tags
        self.make_instrumental = make_instrumental
        self.auto_lyrics = auto_lyrics
        self.vocal_gender = vocal_gender
        self.style_weight = style_weight
        self.weirdness_constraint = weirdness_constraint
        self.audio_weight = audio_weight
        self.continue_clip_id = continue_clip_id
        self.continue_at = continue_at
        self.persona_id = persona_id
        self.variation_category = variation_category
        self.overpainting_start_s = overpainting_start_s
        self.overpainting_end_s = overpainting_end_s
        self.use_suno_cdn = use_suno_cdn
        self.duration = duration
        if destination is not None and not wait_for_completion:
            raise ValueError(
                "destination needs wait_for_completion=True: tracks are stored when they are there"
            )
        self.wait_for_completion = wait_for_completion
        self.destination = destination
        self.store_cover = store_cover
        self.embed_tags = embed_tags
        self.deferrable = deferrable
        self.poll_interval = None if poll_interval is None else seconds_of("poll_interval", poll_interval)
        self.timeout = seconds_of("timeout", timeout)
        self.fail_on_partial = fail_on_partial
        self.include_lyrics = include_lyrics
        self.adopt_music_task_id = adopt_music_task_id
        check_policy(on_unknown_outcome)
        self.on_unknown_outcome = on_unknown_outcome
        self.records = records
        if not records:
            self.inlets = with_purchases(self.inlets)
        self.force_new = force_new
        self.credit_check = credit_check
        self.prompt_id = prompt_id
        self.webhook = webhook

    def execute(self, context: Context) -> str | list[dict[str, Any]]:
        """Submit, or collect what an earlier try submitted; then wait and store if asked to."""
        if self.destination is not None:
            with airflow_errors():
                open_folder("destination", self.destination)  # or nothing is paid
        bought = self._buy_and_wait(context)
        return bought if isinstance(bought, str) else self._stored(context, bought)

    def execute_complete(self, context: Context, event: Any = None) -> list[dict[str, Any]]:
        """Go on after the trigger, see ``WaitsForTracks``; then store if asked to."""
        tracks = super().execute_complete(context, event)
        return tracks if event == BEGIN else self._stored(context, tracks)  # BEGIN: execute has stored them

    def _stored(self, context: Context, tracks: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Store the tracks, if they have a destination, and return their records."""
        if self.destination is None:
            return tracks
        from musicapi_provider.operators.storing import orders_of, store_tracks

        submission = self.submission or context["ti"].xcom_pull(
            task_ids=self.task_id, key=xcoms.SUBMISSION, map_indexes=context["ti"].map_index
        )
        with airflow_errors():
            self.stored_records = store_tracks(
                self, context, [Track.from_dict(track) for track in tracks], orders_of(submission)
            )
        return self.stored_records

    def _buy_and_wait(self, context: Context) -> str | list[dict[str, Any]]:
        # Evidence for whoever looks at this task when it is dead: first the worst case, then what is known.
        # With a folder of records the file is the evidence, and an XCom is a request to the API server.
        with airflow_errors():
            folder = folder_of_records(self.records)
        if folder is None:
            self.push_submission(context, PurchaseStatus(PurchaseState.UNKNOWN))
        try:
            with airflow_errors():
                submitted = self.submit_or_wait(context)
        except Exception:
            if self._records is not None:
                known_now = status_of(self._records, self._fingerprint)
                self.answer_is_lost = known_now.state is PurchaseState.UNKNOWN
                self.push_submission(context, known_now)
            raise
        music_task_id = submitted.music_task_id
        known = PurchaseStatus(
            PurchaseState.SUBMITTED, music_task_id, submitted.credits, submitted.lost_credits
        )
        self.push_submission(context, known)
        if not self.wait_for_completion:
            self.show_only_music_tasks([music_task_id])
            return music_task_id
        if self.deferrable:
            wait = Wait([music_task_id], self.timeout)
            if submitted.is_new:
                # It cannot be done yet: a poll would tell nothing. A callback finds this task by its token.
                self.wait_in_triggerer(wait)
            return self.poll_or_defer(context, wait)
        self.show_music_tasks(context, [music_task_id])
        with airflow_errors(buys=self.buys):
            tracks = wait_for_tracks(
                self.hook.client,
                [music_task_id],
                timeout=self.timeout,
                poll_interval=self.poll_interval or self.hook.settings.poll_interval,
                fail_on_partial=self.fail_on_partial,
            )
        return self.result(tracks)

    def on_kill(self) -> None:
        """Say what stays behind; the API has no cancel call."""
        self.log.warning(
            "Killed. A music task that was already submitted goes on at the API and its credits stay spent; "
            "the next try, or a clear, collects it without paying again."
        )
