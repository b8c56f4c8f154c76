"""Plays a song into an MP3: additive synthesis with numpy, encoded by LAME; 48 kHz stereo (facts 1)."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import lameenc  # type: ignore[import-not-found] # a bare C extension
import numpy as np
import numpy.typing as npt

from include.musicapi_simulator.melody import SAMPLE_RATE, Note, Song

if TYPE_CHECKING:
    from collections.abc import Callable

Wave = npt.NDArray[np.float32]

#: Kilobits per second: 160 KB for 10 s.
BIT_RATE = 128
#: LAME's quality, 0 best to 9 fastest; 7 takes 50 ms for 10 s.
ENCODER_QUALITY = 7
#: Loudest sample as a share of full scale: MP3 overshoots, so leave headroom.
PEAK = 0.7
#: Echoes as (delay in seconds, share) for the left and the right ear: a small room.
ROOM = (
    ((0.031, 0.30), (0.083, 0.20), (0.149, 0.13), (0.241, 0.08)),
    ((0.041, 0.30), (0.097, 0.19), (0.173, 0.12)),
)
#: Level and place (0 left, 1 right) of each voice.
MIX = {
    "lead": (0.50, 0.50),
    "arp": (0.30, 0.72),
    "pad": (0.22, 0.36),
    "bass": (0.60, 0.50),
    "kick": (0.80, 0.50),
    "snare": (0.30, 0.46),
    "hat": (0.14, 0.62),
}


def render_mp3(song: Song) -> bytes:
    """Return the song as an MP3 file."""
    pcm = (render(song) * 32_767).astype(np.int16)
    encoder = lameenc.Encoder()
    encoder.set_bit_rate(BIT_RATE)
    encoder.set_in_sample_rate(SAMPLE_RATE)
    encoder.set_channels(2)
    encoder.set_quality(ENCODER_QUALITY)
    encoder.silence()
    return bytes(encoder.encode(pcm.tobytes()) + encoder.flush())


def render(song: Song) -> Wave:
    """Return the samples, shape (n, 2), between -1 and 1."""
    dry = np.zeros((int(song.plan.seconds * SAMPLE_RATE), 2), np.float32)
    for note in song.notes:
        level, place = MIX[note.voice]
        tone = _tone(note, song.plan.lead) * np.float32(level * note.loud)
        start = int(note.start * SAMPLE_RATE)
        tone = tone[: len(dry) - start]
        dry[start : start + len(tone), 0] += tone * np.float32(2 * (1 - place))
        dry[start : start + len(tone), 1] += tone * np.float32(2 * place)
    return _finish(_in_room(dry))


def _tone(note: Note, lead: str) -> Wave:
    if note.voice in DRUMS:
        return DRUMS[note.voice]()
    if note.voice == "lead":
        return TIMBRES[lead](_hertz(note.pitch), note.seconds)
    return TIMBRES[{"arp": "pluck", "pad": "pad", "bass": "bass"}[note.voice]](
        _hertz(note.pitch), note.seconds
    )


def _hertz(pitch: int) -> float:
    return float(440 * 2 ** ((pitch - 69) / 12))


def _time(seconds: float) -> Wave:
    return np.arange(int(seconds * SAMPLE_RATE), dtype=np.float32) / np.float32(SAMPLE_RATE)


def _single(wave: Any) -> Wave:
    """Return the wave in single precision: half the time, and quite enough for the ear."""
    return np.asarray(wave, np.float32)


def _held(time: Wave, attack: float, release: float) -> Wave:
    """Return an envelope that rises, stays and falls, in seconds."""
    return _single(np.minimum(np.minimum(time / attack, 1), (time[-1] - time) / release))


def _harmonics(phase: Wave, shares: tuple[float, ...]) -> Wave:
    wave = np.zeros_like(phase)
    for number, share in enumerate(shares, 1):
        if share:
            wave += np.float32(share) * np.sin(phase * np.float32(number))
    return wave


def _voice(hertz: float, seconds: float) -> Wave:
    """A hum with a slow vibrato that sets in late."""
    time = _time(seconds + 0.08)
    vibrato = np.minimum(time * 4, 1) * 0.06 * np.sin(2 * np.pi * 5.3 * time)
    phase = _single(2 * np.pi * hertz * time + hertz / 70 * vibrato)
    return _harmonics(phase, (0.6, 0.28, 0.16, 0.06, 0.03)) * _held(time, 0.05, 0.09)


def _pluck(hertz: float, seconds: float) -> Wave:
    time = _time(seconds + 0.25)
    phase = _single(2 * np.pi * hertz * time)
    bright = np.exp(-time * 9) * _harmonics(phase, (0, 0.3, 0.25, 0.15, 0.1))
    body = np.exp(-time * 3.2) * np.sin(phase) * np.float32(0.8)
    return _single((body + bright) * _held(time, 0.004, 0.1))


def _bell(hertz: float, seconds: float) -> Wave:
    """Frequency modulation at an uneven ratio rings like metal."""
    time = _time(seconds + 0.5)
    modulator = np.exp(-time * 4) * 1.2 * np.sin(2 * np.pi * hertz * 2.76 * time)
    wave = np.sin(2 * np.pi * hertz * time + modulator) * np.exp(-time * 2.6) * 0.8
    return _single(wave * _held(time, 0.003, 0.15))


def _reed(hertz: float, seconds: float) -> Wave:
    time = _time(seconds + 0.05)
    phase = _single(2 * np.pi * hertz * time)
    return _harmonics(phase, (0.55, 0.05, 0.28, 0.03, 0.12, 0, 0.04)) * _held(time, 0.03, 0.06)


def _pad(hertz: float, seconds: float) -> Wave:
    """Two slightly detuned layers, soft edges that overlap the next chord."""
    time = _time(seconds + 0.4)
    phases = (_single(2 * np.pi * hertz * shift * time) for shift in (0.997, 1.003))
    wave = sum((_harmonics(phase, (0.5, 0.2, 0.08)) for phase in phases), np.zeros_like(time))
    return wave * _held(time, 0.25, 0.5) * np.float32(0.6)


def _bass(hertz: float, seconds: float) -> Wave:
    time = _time(seconds)
    phase = _single(2 * np.pi * hertz * time)
    decay = _single(np.exp(-time * 1.5))
    return _harmonics(phase, (0.8, 0.35, 0.12, 0.05)) * _held(time, 0.008, 0.06) * decay


@cache
def _kick() -> Wave:
    time = _time(0.28)
    sweep = 2 * np.pi * (48 * time + 5.5 * (1 - np.exp(-time * 28)))
    return _single(np.sin(sweep) * np.exp(-time * 13) * _held(time, 0.002, 0.05))


@cache
def _snare() -> Wave:
    time = _time(0.2)
    noise = np.random.default_rng(1).normal(0, 0.35, len(time))
    body = 0.5 * np.sin(2 * np.pi * 185 * time)
    return _single((noise * np.exp(-time * 22) + body * np.exp(-time * 30)) * _held(time, 0.001, 0.03))


@cache
def _hat() -> Wave:
    time = _time(0.06)
    noise = np.diff(np.random.default_rng(2).normal(0, 0.5, len(time) + 1))  # the difference leaves the highs
    return _single(noise * np.exp(-time * 75))


TIMBRES: dict[str, Callable[[float, float], Wave]] = {
    "voice": _voice,
    "pluck": _pluck,
    "bell": _bell,
    "reed": _reed,
    "pad": _pad,
    "bass": _bass,
}
DRUMS: dict[str, Callable[[], Wave]] = {"kick": _kick, "snare": _snare, "hat": _hat}


def _in_room(dry: Wave) -> Wave:
    wet = dry.copy()
    for ear, echoes in enumerate(ROOM):
        for delay, share in echoes:
            late = int(delay * SAMPLE_RATE)
            wet[late:, ear] += dry[:-late, 1 - ear] * np.float32(share)
    return wet


def _finish(wave: Wave) -> Wave:
    """Round off peaks, set the level, and fade the last half second."""
    wave = np.tanh(wave * np.float32(0.8))
    wave *= np.float32(PEAK / float(np.max(np.abs(wave))))
    fade = SAMPLE_RATE // 2
    wave[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)[:, None]
    return wave
