"""The pictures of the sample worker: abstract, quick, and always the same for the same job."""

import colorsys
import hashlib
import io
import json
import math
import unicodedata
from random import Random

from PIL import Image, ImageDraw, ImageFont

LABEL = "SAMPLE WORKER - not a real model"
MIN_SIDE = 64
MAX_SIDE = 3072

_CANVAS_SIDE = 2048

Colour = tuple[int, int, int]
Size = tuple[int, int]


def draw(prompt: str, seed: int, width: int, height: int) -> bytes:
    """Draw an abstract picture with the prompt and a label on it, as WebP.

    The same prompt, seed and size always give the same picture. Raises `ValueError` for sizes beyond
    64-3072 pixels a side.
    """
    if not (MIN_SIDE <= width <= MAX_SIDE and MIN_SIDE <= height <= MAX_SIDE):
        raise ValueError(f"cannot draw {width}x{height}: sides must be {MIN_SIDE} to {MAX_SIDE} pixels")
    digest = hashlib.sha256(json.dumps([prompt, seed, width, height]).encode()).digest()
    dice = Random(digest)
    # Drawn larger than needed and shrunk, edges come out smooth; shapes this soft also bear enlarging.
    scale = min(2.0, _CANVAS_SIDE / max(width, height))
    size = (round(width * scale), round(height * scale))
    palette = _palette(dice)
    picture = _backdrop(dice, palette, size)
    _add_glows(picture, dice, palette)
    dice.choice((_add_waves, _add_bubbles, _add_strings))(picture, dice, palette)
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    _add_caption(picture, prompt)
    output = io.BytesIO()
    picture.save(output, "WEBP", quality=88, method=1)
    return output.getvalue()


def _palette(dice: Random) -> list[Colour]:
    """Six colours from dark to light around one hue, and a seventh opposite to it."""
    hue = dice.random()
    spread = dice.uniform(0.08, 0.28) * dice.choice((-1, 1))
    tones = [(hue + spread * step / 5, 0.85 - 0.09 * step, 0.22 + 0.145 * step) for step in range(6)] + [
        (hue + 0.5, 0.62, 0.98)
    ]
    return [_rgb(*tone) for tone in tones]


def _rgb(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def _backdrop(dice: Random, palette: list[Colour], size: Size) -> Image.Image:
    """A soft mesh of colours, darker towards the bottom."""
    mesh = Image.new("RGB", (3, 4))
    for row in range(4):
        for column in range(3):
            mesh.putpixel((column, row), palette[max(0, min(5, 4 - row + dice.choice((-1, 0, 0, 1))))])
    return mesh.resize(size, Image.Resampling.BICUBIC)


def _add_glows(picture: Image.Image, dice: Random, palette: list[Colour]) -> None:
    light = Image.eval(Image.radial_gradient("L"), lambda value: round(max(0, 255 - value) ** 2 / 400))
    for colour in (palette[5], palette[6], palette[3], palette[4]):
        side = round(max(picture.size) * dice.uniform(0.5, 0.9))
        place = [round(length * dice.uniform(0.1, 0.9) - side / 2) for length in picture.size]
        picture.paste(colour, (place[0], place[1]), light.resize((side, side), Image.Resampling.BICUBIC))


def _add_waves(picture: Image.Image, dice: Random, palette: list[Colour]) -> None:
    """A sun above rows of hills."""
    width, height = picture.size
    radius = min(width, height) * dice.uniform(0.09, 0.17)
    stencil, pen = _stencil(picture)
    pen.ellipse(_box(width * dice.uniform(0.2, 0.8), height * dice.uniform(0.18, 0.38), radius), fill=255)
    _lay(picture, palette[6], 0.92, stencil)
    for layer in range(5):
        base = height * (0.46 + 0.115 * layer)
        curve = _curve(dice, width, base, height * dice.uniform(0.03, 0.07))
        stencil, pen = _stencil(picture)
        pen.polygon([*curve, (width, height), (0, height)], fill=255)
        _lay(picture, palette[4 - layer], 0.72, stencil)


def _add_bubbles(picture: Image.Image, dice: Random, palette: list[Colour]) -> None:
    """Translucent discs and rings of many sizes."""
    width, height = picture.size
    unit = min(width, height)
    for _ in range(18):
        box = _box(width * dice.random(), height * dice.random(), unit * dice.uniform(0.03, 0.19))
        colour, strength = dice.choice(palette[2:]), dice.uniform(0.16, 0.5)
        stencil, pen = _stencil(picture)
        if dice.random() < 0.3:
            strength = 0.8
            pen.ellipse(box, outline=255, width=max(1, unit // 130))
        else:
            pen.ellipse(box, fill=255)
        _lay(picture, colour, strength, stencil)


def _add_strings(picture: Image.Image, dice: Random, palette: list[Colour]) -> None:
    """Sheaves of fine lines that flow from side to side."""
    width, height = picture.size
    thickness = max(1, min(width, height) // 260)
    for colour in (palette[5], palette[6], palette[4]):
        first = _curve(dice, width, height * dice.uniform(0.2, 0.45), height * dice.uniform(0.05, 0.18))
        last = _curve(dice, width, height * dice.uniform(0.5, 0.85), height * dice.uniform(0.05, 0.18))
        stencil, pen = _stencil(picture)
        for step in range(22):
            pairs = zip(first, last, strict=True)
            string = [(x, start + (end - start) * step / 21) for (x, start), (_, end) in pairs]
            pen.line(string, fill=255, width=thickness, joint="curve")
        _lay(picture, colour, 0.55, stencil)


def _curve(dice: Random, width: int, base: float, swing: float) -> list[tuple[float, float]]:
    """Points of a gentle wave from the left edge to the right, `swing` pixels about height `base`."""
    turns, phase, ripple = dice.uniform(0.6, 1.8), dice.uniform(0, math.tau), dice.uniform(2.0, 3.4)
    angles = [(width * step / 96, math.tau * turns * step / 96 + phase) for step in range(97)]
    return [(x, base + swing * (math.sin(a) + 0.35 * math.sin(a * ripple))) for x, a in angles]


def _box(x: float, y: float, radius: float) -> tuple[float, float, float, float]:
    return x - radius, y - radius, x + radius, y + radius


def _stencil(picture: Image.Image) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """An empty mask as large as the picture, and the pen to draw on it."""
    mask = Image.new("L", picture.size)
    return mask, ImageDraw.Draw(mask)


def _lay(picture: Image.Image, colour: Colour, strength: float, stencil: Image.Image) -> None:
    """Lay a colour over the picture where the stencil is white, with an opacity of 0 to 1."""
    picture.paste(colour, (0, 0), Image.eval(stencil, lambda value: round(value * strength)))


def _add_caption(picture: Image.Image, prompt: str) -> None:
    """Write the prompt and the label on a dark strip at the bottom."""
    width, height = picture.size
    text_size = max(8, min(width, height) // 30)
    margin = text_size // 2
    font = ImageFont.load_default(text_size)
    room = max(0, height // 3 // (text_size + margin // 2) - 1)
    label = _wrap(LABEL, font, width - 2 * margin, 4)
    text = _wrap(_printable(prompt), font, width - 2 * margin, min(2, room))
    line_height = round(text_size * 1.3)
    top = height - line_height * (len(label) + len(text)) - 2 * margin
    shade = Image.new("L", (width, height - top), 150)
    picture.paste((8, 8, 16), (0, top), shade)
    pen = ImageDraw.Draw(picture)
    y = top + margin
    for lines, colour in ((text, (255, 255, 255)), (label, (255, 214, 120))):
        for line in lines:
            pen.text((margin, y), line, fill=colour, font=font)
            y += line_height


def _printable(prompt: str) -> str:
    """The beginning of a prompt's positive part in the letters that Pillow's built-in font has."""
    positive = prompt[:400].split("###", 1)[0]
    plain = unicodedata.normalize("NFKD", positive).encode("ascii", "ignore").decode()
    return " ".join("".join(letter if letter.isprintable() else " " for letter in plain).split())


def _wrap(
    text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float, most: int
) -> list[str]:
    """Break a text into at most `most` lines that fit `width`; what is left over is cut with dots."""
    lines: list[str] = []
    words = text.split(" ") if text else []
    while words and len(lines) < most:
        line = words.pop(0)
        while words and font.getlength(f"{line} {words[0]}") <= width:
            line += " " + words.pop(0)
        last = len(lines) == most - 1 and bool(words)
        lines.append(_cut(line, font, width, last))
    return lines


def _cut(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float, more: bool) -> str:
    if not more and font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
