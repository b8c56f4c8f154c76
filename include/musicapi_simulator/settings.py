"""What a simulator can be told: the command line, the control route and tests share these fields."""

from __future__ import annotations

from dataclasses import dataclass

#: Credits by task type (facts 8). Where sources disagree (remaster, add_*), the dearer reading.
COSTS = {
    "create_music": 15,
    "extend_music": 15,
    "cover_music": 15,
    "concat_music": 2,
    "persona_music": 15,
    "extend_upload_music": 15,
    "cover_upload_music": 15,
    "remaster": 15,
    "add_instrumental": 15,
    "add_vocals": 15,
}


@dataclass
class Settings:
    """
    Settings of one simulator, each changeable while it runs.

    :param api_key: The only accepted key; change it to revoke the old one.
    :param credits: Subscription credits on the account.
    :param extra_credits: Extra credits, consumed first (facts 8).
    :param job_rule: How jobs advance: ``at-once``, ``reads:N`` or ``seconds:MEDIAN``.
    :param seed: Seed of the spread of job lengths under ``seconds:``.
    :param song_seconds: Seconds of audio per track, at least; rounded up to whole bars.
    :param latency: Seconds added before every API answer.
    :param create_interval: Least seconds between two creates, else 429. The real standard tier has 3
        (facts 1); 0 switches it off, so that tests need not wait.
    :param retry_after: Seconds that 429 answers put in ``Retry-After``.
    :param slow_seconds: Seconds that the ``slow-*`` scenarios wait.
    :param media_url_seconds: Seconds for which the media URLs of a task answer work; each answer has fresh
        ones. 0: for ever, as the vendor says of its own (facts 1).
    :param one_song: Ignore the words: all tracks of a voice sound the same, and so are rendered once. For
        benchmarks that should measure a client and not LAME.
    :param webhook_delay: Seconds from an event to its sending.
    :param webhook_tries: Times that a webhook is sent until a 2xx answers it.
    :param webhook_retry_seconds: Seconds before the second attempt, doubled before each further one.
    :param webhook_lost_every: Every so many-th last event of a job is not sent; 0: none is lost.
    :param webhooks_over_http: Accept also http URLs to addresses of this machine. The real service wants
        https (facts 7.1), but a test's receiver has no certificate.
    """

    api_key: str = "simulator-key"
    credits: int = 1000
    extra_credits: int = 0
    job_rule: str = "seconds:8"
    seed: int = 1
    song_seconds: float = 8.0
    latency: float = 0.0
    create_interval: float = 0.0
    retry_after: float = 1.0
    slow_seconds: float = 5.0
    media_url_seconds: float = 0.0
    one_song: bool = False
    webhook_delay: float = 0.0
    webhook_tries: int = 4
    webhook_retry_seconds: float = 1.0
    webhook_lost_every: int = 0
    webhooks_over_http: bool = False

    def words(self, text: str) -> str:
        """Return the part of a text that tracks and covers are made of."""
        return "" if self.one_song else text
