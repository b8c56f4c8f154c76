"""Draws a cover for a song: a gradient, rings and hills in colours taken from the words, and the title."""

from __future__ import annotations

import colorsys
import io
import math
from random import Random

from PIL import Image, ImageDraw, ImageFilter, ImageFont

#: Pixels of an edge.
SIZE = 512
#: Characters of the title that fit a line.
LINE = 18

Colour = tuple[int, int, int]


def draw_cover(title: str, text: str, take: int) -> bytes:
    """
    Return a square JPEG.

    :param title: Written at the bottom; empty for none.
    :param text: All words of the prompt; the same words give the same picture.
    :param take: 0 or 1; the second take is drawn in shifted colours.
    """
    chance = Random(text)
    hue = (chance.random() + 0.08 * take) % 1
    picture = _gradient(_colour(hue, 0.55, 0.95), _colour(hue + 0.12, 0.75, 0.35))
    _draw_sun(picture, chance, _colour(hue + 0.45, 0.35, 1.0))
    for layer in range(3):
        _draw_hill(
            picture, Random(f"{text}/{layer}/{take}"), layer, _colour(hue + 0.1, 0.7, 0.38 - 0.11 * layer)
        )
    _write(picture, title)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=88)
    return file.getvalue()


def _colour(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, saturation, value)
    return int(red * 255), int(green * 255), int(blue * 255)


def _gradient(top: Colour, bottom: Colour) -> Image.Image:
    two = Image.new("RGB", (1, 2))
    two.putpixel((0, 0), top)
    two.putpixel((0, 1), bottom)
    return two.resize((SIZE, SIZE), Image.Resampling.BICUBIC)


def _draw_sun(picture: Image.Image, chance: Random, colour: Colour) -> None:
    """A disc with rings, like a record rising."""
    x, y, radius = chance.randint(150, 362), chance.randint(130, 220), chance.randint(70, 110)
    mask = Image.new("L", picture.size, 0)
    pen = ImageDraw.Draw(mask)
    for ring in range(5):
        reach = radius + 26 * ring
        pen.ellipse((x - reach, y - reach, x + reach, y + reach), outline=150 - 28 * ring, width=3)
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=235)
    pen.ellipse((x - 9, y - 9, x + 9, y + 9), fill=90)
    picture.paste(colour, mask=mask.filter(ImageFilter.GaussianBlur(0.8)))


def _draw_hill(picture: Image.Image, chance: Random, layer: int, colour: Colour) -> None:
    base = 330 + 55 * layer
    waves = [(chance.uniform(8, 26), chance.uniform(0.5, 2.2), chance.uniform(0, 6.3)) for _ in range(3)]
    ridge = [
        (x, base + sum(height * math.sin(6.3 * turns * x / SIZE + shift) for height, turns, shift in waves))
        for x in range(0, SIZE + 8, 8)
    ]
    ImageDraw.Draw(picture).polygon([(0, SIZE), *ridge, (SIZE + 8, SIZE)], fill=colour)


def _write(picture: Image.Image, title: str) -> None:
    short = title if len(title) <= LINE else title[: LINE - 1].rstrip() + "\u2026"
    font = ImageFont.load_default(44)
    ImageDraw.Draw(picture).text((SIZE // 2, SIZE - 52), short, (255, 255, 255), font, anchor="mm")
