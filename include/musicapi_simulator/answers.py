"""The answers of the API as data: status, body and how they travel. Shapes follow facts 2.4, 3 and 6.1."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from include.musicapi_simulator import melody
from include.musicapi_simulator.expiry import link
from include.musicapi_simulator.reply import Clip, Reply

if TYPE_CHECKING:
    from include.musicapi_simulator.jobs import Job, Phase
    from include.musicapi_simulator.settings import Settings


def error(status: int, text: str, kind: str | None = None) -> Reply:
    """Return an error in the shape ``{error}`` or ``{type, error}`` (facts 6.1)."""
    return Reply(status, {"error": text} if kind is None else {"type": kind, "error": text})


UNAUTHORIZED = error(401, "Invalid or missing API key", "unauthorized")
UNKNOWN_TASK = error(404, "Task not found", "not_found")
MISSING_TASK_ID = error(400, "Missing task id")
THROTTLED = Reply(429, {"message": "Too many requests, please slow down"})
# The fragment "remaining credits" is how clients tell this 403 from a content refusal (facts 6.2).
NO_CREDITS = error(403, "Your remaining credits are not enough for this request")
EXPIRED = error(403, "This URL has expired or was not signed")
RETIRED = error(410, "This operation is no longer available")
NOT_READY = error(202, "Task is not ready yet, please try again later", "not_ready")


def submitted(task_id: str) -> Reply:
    """Return the answer to an accepted create: no ``code``, as seen live (facts 2.4)."""
    return Reply(body={"message": "success", "task_id": task_id})


def balance(credits_left: int, extra_left: int) -> Reply:
    """Return the answer of ``GET /get-credits`` (facts 4.5)."""
    return Reply(body={"credits": credits_left, "extra_credits": extra_left})


def task(job: Job, phase: Phase, root: str, settings: Settings) -> Reply:
    """
    Return the answer for a job in a phase (facts 3.1).

    :param root: Scheme and host that the request came to; media URLs start with it.
    :param settings: Decide how long tracks are and how long their URLs work.
    """
    if phase == "not_ready":
        return NOT_READY
    ready = {"running": 0, "half": 1, "done": 2}[phase]
    clips = [
        succeeded(job, take, root, settings) if take < ready else running(job, take, root, settings)
        for take in range(len(job.clip_ids))
    ]
    return data(clips)


def data(items: list[Any], code: int = 200) -> Reply:
    """Return a task answer that holds these items."""
    return Reply(body={"code": code, "data": items, "message": "success"})


def running(job: Job, take: int, root: str, settings: Settings) -> Clip:
    """Return an unfinished clip: its URL streams and is not final (facts 1.1)."""
    # No source shows the duration of an unfinished clip; null is the cautious reading.
    return _clip(job, take) | {
        "state": "running",
        "audio_url": link(root, f"/media/stream/{job.clip_ids[take]}.mp3", settings.media_url_seconds),
    }


def succeeded(job: Job, take: int, root: str, settings: Settings) -> Clip:
    """Return a finished clip."""
    clip_id = job.clip_ids[take]
    seconds = melody.duration_of(settings.words(job.text), take, settings.song_seconds)
    return _clip(job, take) | {
        "state": "succeeded",
        "audio_url": link(root, f"/media/{clip_id}.mp3", settings.media_url_seconds),
        "image_url": link(root, f"/media/{clip_id}.jpeg", settings.media_url_seconds),
        # A decimal string, as seen live (facts 3.2).
        "duration": f"{seconds:.2f}",
    }


def failed(clip: Clip) -> Clip:
    """Return the clip as failed; only failed clips carry ``error_message`` (facts 3.2)."""
    nothing = {"audio_url": None, "image_url": None, "duration": None}
    return clip | nothing | {"state": "failed", "error_message": "Generation failed upstream"}


def _clip(job: Job, take: int) -> Clip:
    """Return the fields of facts 3.2, in the state before any file exists."""
    body = job.body
    return {
        "clip_id": job.clip_ids[take],
        "state": "pending",
        "title": title_of(job),
        "tags": body.get("tags") or melody.style_of(body),
        "lyrics": _lyrics(body),
        "image_url": None,
        "audio_url": None,
        "video_url": None,
        "created_at": job.created_at.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z",
        "gpt_description_prompt": body.get("gpt_description_prompt"),
        "duration": None,
        "negative_tags": body.get("negative_tags"),
        "style_weight": body.get("style_weight"),
        "weirdness_constraint": body.get("weirdness_constraint"),
        "mv": body.get("mv"),
    }


def title_of(job: Job) -> str:
    """Return the title as given, or one made of the words: the service names what the caller did not."""
    if job.body.get("title"):
        return str(job.body["title"])
    text = re.sub(r"\[[^]]*\]|simulate:\S+", "", job.text)  # no section marks, no scenario names
    words = [word.strip(".,;:!?()").title() for word in text.split()]
    return " ".join([word for word in words if len(word) > 3][:3]) or "Untitled"


def _lyrics(body: dict[str, Any]) -> str:
    if body.get("make_instrumental"):
        return "[Instrumental]"  # a marker instead of an empty string (facts 2.2)
    if body.get("custom_mode") and not body.get("auto_lyrics"):
        return str(body.get("prompt") or body.get("lyrics") or "")
    brief = body.get("gpt_description_prompt") or body.get("prompt") or "the song"
    return f"[Verse]\nThis line was dreamt up locally\nabout {brief}\n[Chorus]\nNobody paid a credit for me"
