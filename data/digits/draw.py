#!/usr/bin/env python3
"""Draws the digits in this folder: `pip install pillow numpy`, then `python3 draw.py`.

Every digit is a few pen strokes through points placed by hand in a box 100 wide and 140 high, y down. A point given
twice in a row is a corner. A seeded wobble makes the line less perfect. Same output on every run.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

FINE = 4  # drawn this many times larger, then averaged
BLACK, WHITE = (0, 0, 0), (255, 255, 255)

# name: strokes, canvas (w, h), box height, box centre (x, y) as parts of the canvas, slant, pen, ink, paper, mode
# Mode: PIL's, with "16" for 16-bit grey. Without paper the canvas is transparent.
DIGITS = {
    "0_pencil": ([[(58, 4), (28, 18), (9, 56), (10, 96), (30, 132), (58, 133), (84, 106), (91, 62), (80, 20), (54, 3), (40, 10)]],
                 (200, 260), 170, (0.5, 0.5), 0.05, 9, (60, 60, 64), (248, 248, 246), "L"),
    "0_chalk": ([[(46, 9), (18, 26), (4, 72), (18, 118), (50, 133), (84, 116), (98, 70), (86, 24), (58, 6), (38, 12)]],
                (320, 320), 200, (0.45, 0.52), 0.0, 20, (236, 236, 226), (28, 58, 44), "RGB"),
    "1_ballpoint": ([[(56, 2), (52, 50), (49, 95), (44, 138)]],
                    (160, 240), 150, (0.5, 0.5), 0.12, 6, (24, 44, 150), WHITE, "RGB"),
    "1_marker": ([[(50, 0), (52, 46), (51, 92), (49, 140)]],
                 (400, 400), 250, (0.6, 0.45), 0.0, 40, (20, 20, 20), (252, 252, 252), "L"),
    "2_transparent": ([[(14, 36), (30, 11), (60, 4), (82, 24), (78, 56), (50, 92), (12, 130), (12, 130), (40, 125), (70, 129), (98, 126)]],
                      (300, 300), 190, (0.5, 0.5), 0.1, 18, BLACK, None, "RGBA"),
    "2_loop": ([[(10, 32), (36, 5), (72, 10), (83, 42), (64, 84), (34, 120), (12, 130), (6, 118), (22, 108), (56, 126), (98, 120)]],
               (256, 256), 170, (0.52, 0.5), 0.05, 18, WHITE, BLACK, "L"),
    "3_red": ([[(14, 22), (42, 4), (74, 14), (74, 42), (42, 62), (42, 62), (74, 72), (88, 100), (68, 130), (36, 135), (8, 118)]],
              (240, 320), 190, (0.45, 0.4), 0.08, 13, (200, 30, 40), (255, 252, 240), "RGB"),
    "3_deep": ([[(8, 16), (40, 6), (74, 10), (70, 36), (36, 58), (36, 58), (62, 60), (86, 86), (78, 122), (46, 138), (10, 130)]],
               (200, 200), 130, (0.5, 0.55), 0.0, 14, (30, 30, 30), (240, 240, 240), "16"),
    "4_fineliner": ([[(24, 4), (16, 40), (10, 76), (10, 76), (46, 78), (94, 70)], [(74, 24), (70, 70), (64, 138)]],
                    (400, 400), 250, (0.5, 0.5), 0.08, 3, (10, 10, 10), WHITE, "L"),
    "4_brush": ([[(70, 2), (42, 44), (6, 94), (6, 94), (50, 93), (100, 88)], [(70, 4), (68, 60), (64, 140)]],
                (300, 300), 190, (0.46, 0.52), 0.0, 26, (40, 24, 16), (238, 226, 205), "RGB"),
    "5_palette": ([[(26, 8), (22, 34), (17, 62), (17, 62), (46, 52), (78, 62), (89, 92), (72, 126), (38, 136), (8, 122)],
                   [(26, 8), (55, 9), (90, 3)]],
                  (180, 220), 140, (0.5, 0.5), 0.05, 12, (90, 30, 120), (250, 240, 170), "P"),
    "5_corner": ([[(88, 5), (58, 8), (32, 10), (32, 10), (25, 36), (18, 60), (18, 60), (50, 54), (80, 72), (82, 106), (54, 133), (10, 128)]],
                 (600, 600), 150, (0.8, 0.78), 0.15, 11, (0, 70, 60), WHITE, "RGB"),
    "6_deep_night": ([[(74, 2), (44, 28), (18, 72), (14, 110), (38, 136), (72, 126), (84, 98), (64, 78), (36, 86), (16, 110)]],
                     (220, 280), 180, (0.5, 0.5), 0.0, 16, (225, 225, 225), (20, 20, 20), "16"),
    "6_faint": ([[(58, 0), (32, 38), (14, 88), (22, 128), (54, 137), (80, 118), (78, 90), (52, 80), (28, 94), (18, 112)]],
                (240, 240), 170, (0.42, 0.5), 0.1, 11, (165, 165, 168), (232, 232, 230), "L"),
    "7_night_transparent": ([[(8, 16), (48, 11), (92, 8), (92, 8), (72, 50), (54, 95), (42, 138)]],
                            (260, 300), 190, (0.5, 0.5), 0.0, 15, (240, 244, 255), None, "RGBA"),
    "7_bar": ([[(6, 12), (48, 14), (94, 6), (94, 6), (70, 56), (46, 138)], [(30, 74), (58, 70), (90, 68)]],
              (280, 280), 170, (0.5, 0.5), 0.0, 10, (20, 60, 170), (246, 248, 255), "RGB"),
    "8_marker": ([[(80, 22), (54, 4), (26, 14), (26, 42), (56, 68), (84, 98), (74, 130), (42, 138), (16, 118), (26, 88), (56, 62), (80, 38), (80, 22)]],
                 (320, 360), 230, (0.5, 0.48), 0.05, 24, (15, 90, 40), WHITE, "RGB"),
    "8_tiny": ([[(70, 12), (40, 6), (22, 28), (42, 58), (74, 84), (80, 118), (50, 137), (20, 122), (26, 90), (54, 64), (80, 38), (70, 12), (58, 6)]],
               (64, 64), 46, (0.5, 0.5), 0.1, 5, (0, 0, 0), (255, 255, 255), "L"),
    "9_onebit": ([[(82, 26), (58, 5), (26, 16), (14, 46), (34, 68), (64, 58), (82, 28), (82, 28), (81, 62), (76, 100), (68, 138)]],
                 (150, 200), 140, (0.5, 0.5), 0.0, 9, BLACK, WHITE, "1"),
    "9_note": ([[(80, 32), (58, 6), (26, 14), (14, 44), (34, 68), (64, 58), (82, 30), (82, 30), (86, 72), (74, 116), (46, 138), (18, 128)]],
               (260, 260), 165, (0.48, 0.47), 0.05, 14, (20, 30, 80), (255, 228, 92), "RGB"),
}


def spline(points):
    """Points close together on the Catmull-Rom curve through `points`."""
    p = np.array([points[0], *points, points[-1]], float)
    t = np.linspace(0, 1, 60)[:, None]
    parts = []
    for a, b, c, d in zip(p, p[1:], p[2:], p[3:]):
        parts.append(b + (c - a) * t / 2 + (2 * a - 5 * b + 4 * c - d) * t**2 / 2 + (3 * (b - c) + d - a) * t**3 / 2)
    return np.concatenate(parts)


def stroke_path(points):
    """The curve of one stroke: a spline between corners."""
    corners = [i for i in range(1, len(points)) if points[i] == points[i - 1]]
    ends = [0, *corners, len(points)]
    return np.concatenate([spline(points[a:b]) for a, b in zip(ends, ends[1:])])


def wobble(rng, length, size):
    """Smooth noise along a path: a few slow waves."""
    along = np.arange(length) / 60
    waves = [rng.normal() / k * np.sin(along * k * rng.uniform(0.8, 1.2) + rng.uniform(0, 6.3)) for k in (1, 2, 3)]
    return size * np.sum(waves, axis=0)


def coverage(rng, strokes, canvas, height, centre, slant, pen):
    """How much of each pixel the pen covered, 0 to 1."""
    image = Image.new("L", (canvas[0] * FINE, canvas[1] * FINE))
    draw = ImageDraw.Draw(image)
    for points in strokes:
        path = stroke_path(points)
        n = len(path)
        x = path[:, 0] + wobble(rng, n, 1.2) - 50
        y = path[:, 1] + wobble(rng, n, 1.2) - 70
        x = x - slant * y
        radius = pen / 2 * (1 + wobble(rng, n, 0.06)) * FINE
        scale = height / 140 * FINE
        for cx, cy, r in zip(x * scale + centre[0] * image.width, y * scale + centre[1] * image.height, radius):
            draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=255)
    return np.asarray(image.reduce(FINE), float) / 255


def render(rng, strokes, canvas, height, centre, slant, pen, ink, paper, mode):
    """One finished picture."""
    part = coverage(rng, strokes, canvas, height, centre, slant, pen)[..., None]
    if paper is None:
        alpha = np.round(part * 255)
        colour = np.where(alpha > 0, np.array(ink, float), 0)
        return Image.fromarray(np.concatenate([colour, alpha], axis=2).astype(np.uint8), "RGBA")
    colour = np.array(paper) + (np.array(ink) - np.array(paper)) * part
    if mode == "16":
        return Image.fromarray(np.round(colour[..., 0] * 257).astype(np.uint16))
    image = Image.fromarray(np.round(colour).astype(np.uint8), "RGB")
    if mode == "P":
        return image.quantize(16, dither=Image.Dither.NONE)
    if mode == "1":
        return image.convert("L").point(lambda v: 255 * (v > 127)).convert("1")
    return image.convert(mode)


if __name__ == "__main__":
    for seed, (name, recipe) in enumerate(DIGITS.items()):
        picture = render(np.random.default_rng(seed), *recipe)
        picture.save(Path(__file__).parent / f"{name}.png", optimize=True)
