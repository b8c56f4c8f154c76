"""
Turns words into a short piece of music: key, tempo, chords, tune, bass and drums, as a list of notes.

The words alone decide, so the same prompt always gives the same song and two prompts two songs; the second
take of a job plays the same song with another tune. Pure Python: task answers need the duration only, and
must not wait for numpy.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from include.musicapi_simulator.jobs import text_of

Voice = Literal["lead", "arp", "pad", "bass", "kick", "snare", "hat"]

#: MP3 frames are this many samples; LAME adds its delay of 1105 samples before padding to whole frames.
SAMPLE_RATE, FRAME, ENCODER_DELAY = 48_000, 1_152, 1_105
#: Seconds in which the last chord rings out.
TAIL = 1.2
#: Beats of a bar.
BEATS = 4

#: Words that choose the minor mode, a fast or a slow tempo.
SAD = re.compile(
    r"\b(sad|rainy?|night|lonely|dark|blues?|lost|goodbye|winter|storm|minor|melanchol|cry|tears|cold)"
)
FAST = re.compile(
    r"\b(upbeat|dance|techno|edm|rock|punk|fast|energetic|house|party|funk|disco|metal|happy)\b"
)
SLOW = re.compile(r"\b(ballad|slow|lo-?fi|ambient|calm|sleep|lullaby|soft|gentle|chill|quiet|dream|peaceful)")

SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
#: Chord roots as scale steps, four bars each.
PROGRESSIONS = {
    "major": ((0, 4, 5, 3), (0, 5, 3, 4), (0, 3, 5, 4), (5, 3, 0, 4)),
    "minor": ((0, 5, 2, 6), (0, 3, 5, 4), (0, 6, 5, 6), (0, 2, 6, 3)),
}
#: Scale steps that sound well over any of these chords: the pentatonic scale of the mode.
TUNE_STEPS = {"major": (0, 1, 2, 4, 5), "minor": (0, 2, 3, 4, 6)}
#: Tune rhythms: note lengths in eighths, negative for a rest.
RHYTHMS = (
    (3, 1, 2, 2),
    (2, 1, 1, 3, 1),
    (2, 2, 2, -2),
    (1, 1, 2, 1, 1, 2),
    (4, 2, 2),
    (3, 3, 2),
    (-1, 1, 2, 2, 2),
)
#: Bass rhythms: onsets in eighths of a bar.
BASS_LINES = ((0, 4), (0, 3, 4, 7), (0, 3, 6), (0, 2, 4, 6))
LEADS = ("voice", "pluck", "bell", "reed")
KEYS = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")


@dataclass(frozen=True)
class Note:
    """
    One note or drum hit.

    :param start: Seconds from the beginning.
    :param seconds: How long it is held.
    :param pitch: MIDI number; drums ignore it.
    :param loud: 0 to 1.
    """

    voice: Voice
    start: float
    seconds: float
    pitch: int
    loud: float


@dataclass(frozen=True)
class Plan:
    """What the words decide about a song before any note is chosen."""

    tonic: int
    mode: Literal["major", "minor"]
    tempo: int
    bars: int
    progression: tuple[int, ...]
    lead: str
    flowing: bool

    @property
    def beat(self) -> float:
        """Seconds of a beat."""
        return 60 / self.tempo

    @property
    def seconds(self) -> float:
        """Seconds of the song with its tail."""
        return self.bars * BEATS * self.beat + TAIL


@dataclass(frozen=True)
class Song:
    """Notes, ready to be played."""

    plan: Plan
    notes: tuple[Note, ...]


def duration_of(text: str, take: int, song_seconds: float) -> float:
    """Return the seconds that the MP3 of a take lasts, to the frame."""
    samples = plan_of(text, take, song_seconds).seconds * SAMPLE_RATE
    return math.ceil((int(samples) + ENCODER_DELAY) / FRAME) * FRAME / SAMPLE_RATE


def style_of(body: dict[str, Any]) -> str:
    """Return tags for a caller who gave none."""
    plan = plan_of(text_of(body), 0, 1)
    return f"{plan.lead} lead, {KEYS[plan.tonic]} {plan.mode}, {plan.tempo} bpm"


def plan_of(text: str, take: int, song_seconds: float) -> Plan:
    """
    Return key, tempo, chords and instrument for the words.

    :param take: 0 or 1; the second take is a little faster.
    :param song_seconds: Least length in seconds before the tail; bars stay whole.
    """
    chance = Random(text)
    words = text.lower()
    mode: Literal["major", "minor"] = (
        "minor" if SAD.search(words) else chance.choice(("major", "major", "minor"))
    )
    low, high = (116, 138) if FAST.search(words) else (72, 86) if SLOW.search(words) else (90, 112)
    tempo = chance.randint(low, high) + 3 * take
    return Plan(
        tonic=chance.randrange(12),
        mode=mode,
        tempo=tempo,
        bars=max(2, math.ceil(song_seconds * tempo / 60 / BEATS)),
        progression=chance.choice(PROGRESSIONS[mode]),
        lead=chance.choice(LEADS),
        flowing=tempo < 100 or chance.random() < 0.3,
    )


def compose(text: str, instrumental: bool, gender: str, take: int, song_seconds: float) -> Song:
    """
    Return the song for the words.

    :param instrumental: Give the tune to an instrument rather than to a voice-like sound.
    :param gender: ``f``, ``m`` or empty: a male voice sings an octave lower.
    """
    plan = plan_of(text, take, song_seconds)
    lead = plan.lead if instrumental and plan.lead != "voice" else "pluck" if instrumental else "voice"
    octave = 60 if gender == "m" and not instrumental else 72
    plan = Plan(**(plan.__dict__ | {"lead": lead}))
    notes = [*_tune(plan, Random(f"{text}/{take}"), octave)]
    chance = Random(f"{text}/band")
    bass_line = chance.choice(BASS_LINES)
    for bar in range(plan.bars):
        notes += [*_chords(plan, bar), *_bass(plan, bar, bass_line), *_drums(plan, bar)]
    return Song(plan, tuple(notes))


def _step(plan: Plan, step: int, base: int) -> int:
    """Return the MIDI pitch of a scale step, counted from the tonic at ``base``."""
    octave, index = divmod(step, 7)
    return base + plan.tonic - (12 if plan.tonic > 6 else 0) + 12 * octave + SCALES[plan.mode][index]


def _root(plan: Plan, bar: int) -> int:
    # The last bar comes home, whatever the progression.
    return 0 if bar == plan.bars - 1 else plan.progression[bar % 4]


def _tune(plan: Plan, chance: Random, base: int) -> list[Note]:
    """Two motifs, asked and answered, leaning on chord tones; the last bar holds the tonic."""
    motifs = [_motif(chance), _motif(chance)]
    steps = TUNE_STEPS[plan.mode]
    notes = []
    for bar in range(plan.bars - 1):
        at, chord = 0, {(_root(plan, bar) + third) % 7 for third in (0, 2, 4)}
        for length, index in motifs[bar % 2]:
            octave, place = divmod(index, len(steps))
            step = steps[place]
            if at % 4 == 0:  # on strong beats, move to the nearest note of the chord
                step = min(chord, key=lambda tone: abs(tone - step))
            pitch = _step(plan, step + 7 * octave, base)
            start = (bar * 8 + at) * plan.beat / 2
            if length > 0:
                notes.append(
                    Note("lead", start, length * plan.beat / 2 * 0.95, pitch, 0.9 if at % 4 == 0 else 0.75)
                )
            at += abs(length)
    end = (plan.bars - 1) * BEATS * plan.beat
    return [*notes, Note("lead", end, 3 * plan.beat, _step(plan, 0, base), 0.85)]


def _motif(chance: Random) -> list[tuple[int, int]]:
    """Return (length in eighths, index into the tune steps) pairs: a walk by small steps."""
    index, motif = chance.randint(0, 4), []
    for length in chance.choice(RHYTHMS):
        motif.append((length, index))
        index = max(-2, min(6, index + chance.choice((-2, -1, -1, 1, 1, 2))))
    return motif


def _chords(plan: Plan, bar: int) -> list[Note]:
    """A held pad, and in flowing songs an arpeggio over it."""
    start, whole = bar * BEATS * plan.beat, BEATS * plan.beat
    tones = [_step(plan, _root(plan, bar) + third, 60) for third in (0, 2, 4)]
    tones = [tone - 12 if tone > 71 else tone for tone in tones]
    notes = [Note("pad", start, whole, tone, 0.5) for tone in tones]
    if plan.flowing and bar < plan.bars - 1:
        order = (0, 1, 2, 1, 0, 1, 2, 1)
        notes += [
            Note("arp", start + eighth * plan.beat / 2, plan.beat, tones[which] + 12, 0.4)
            for eighth, which in enumerate(order)
        ]
    return notes


def _bass(plan: Plan, bar: int, onsets: tuple[int, ...]) -> list[Note]:
    last = bar == plan.bars - 1
    pitch = _step(plan, _root(plan, bar), 36)
    pitch -= 12 if pitch > 47 else 0
    ends = (*onsets[1:], 8)
    return [
        Note("bass", (bar * 8 + at) * plan.beat / 2, (8 if last else end - at) * plan.beat / 2, pitch, 0.8)
        for at, end in zip(onsets, ends, strict=True)
        if at == 0 or not last
    ]


def _drums(plan: Plan, bar: int) -> list[Note]:
    """Kick on 1 and 3, snare on 2 and 4, hats between; hats alone in the first bar, a kick in the last."""
    start, eighth = bar * BEATS * plan.beat, plan.beat / 2
    if bar == plan.bars - 1:
        return [Note("kick", start, 0.3, 0, 0.8)]
    hats = [Note("hat", start + i * eighth, 0.05, 0, 0.5 if i % 2 else 0.3) for i in range(8)]
    if bar == 0:
        return hats
    kicks = [Note("kick", start + i * plan.beat, 0.3, 0, 0.9) for i in (0, 2)]
    return [*hats, *kicks, *(Note("snare", start + i * plan.beat, 0.2, 0, 0.6) for i in (1, 3))]
