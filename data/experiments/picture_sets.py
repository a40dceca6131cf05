#!/usr/bin/env python3
"""Makes the sets of pictures on which docs/results.md compares recipes, from packages that Debian and npm have.

    apt-get install python3-pil tuxpaint-stamps-default $(cat data/experiments/fonts.txt)
    for vendor in google apple twitter facebook; do npm pack emoji-datasource-$vendor@16.0.0; done
    python3 data/experiments/picture_sets.py OUT --emoji . --stamps /usr/share/tuxpaint/stamps --fonts data/experiments/fonts.txt

Beside each set lies another one, such as emoji-choice, which splits the training part alone in the same way: for choosing recipes.

Apple's and Facebook's emoji are not free. `--vendors google twitter` takes the others alone (Noto Emoji: Apache-2.0; Twemoji: CC BY 4.0):
a network trained on these may be passed on.

What is shown in the test part is never in the training part: an emoji is in one of them with the pictures of all vendors, a font with all
its letters.
"""

import argparse
import glob
import hashlib
import io
import json
import pathlib
import string
import subprocess
import sys
import tarfile

from PIL import Image, ImageDraw, ImageFont

VENDORS = ["google", "apple", "twitter", "facebook"]
# Categories of Tux Paint's stamps with at least 25 photos.
PHOTOS = ["animals", "food", "household", "plants", "town", "vehicles"]


def is_test(name, of):
    """A fixed share of 1 / `of`, drawn by name."""
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % of == 0


def save(picture, out, part, label, name, shown, of):
    """Saves a picture that shows `shown`; a share of 1 / `of` of what the training part shows is for choosing recipes."""
    choice = "test" if is_test(f"choice{shown}", of) else "train"
    for folder in [out / part] + ([out.with_name(f"{out.name}-choice") / choice] if part == "train" else []):
        (folder / label).mkdir(parents=True, exist_ok=True)
        picture.save(folder / label / f"{name}.png")


def on_white(picture):
    picture = picture.convert("RGBA")
    ground = Image.new("RGBA", picture.size, "white")
    ground.alpha_composite(picture)
    return ground.convert("RGB")


def emoji(archives, out, vendors):
    """Nine categories, 32x32."""
    for vendor in vendors:
        (path,) = glob.glob(f"{archives}/emoji-datasource-{vendor}-*.tgz")
        with tarfile.open(path) as archive:
            every = json.load(archive.extractfile("package/emoji.json"))
            members = {member.name: member for member in archive.getmembers()}
            for one in every:
                label = one["category"].lower().replace(" & ", "-")
                member = members.get(f"package/img/{vendor}/64/{one['image']}")
                if label == "component" or member is None:
                    continue
                picture = on_white(Image.open(io.BytesIO(archive.extractfile(member).read())))
                part = "test" if is_test(one["unified"], 5) else "train"
                save(picture.resize((32, 32), Image.BOX), out, part, label, f"{one['unified']}-{vendor}", one["unified"], 6)


def stamps(folder, out):
    """Photos of six kinds, of any size, at most 128 pixels a side; no drawings."""
    for label in PHOTOS:
        for path in sorted(pathlib.Path(folder, label).rglob("*.png")):
            if "cartoon" in str(path).lower() or path.stem.endswith("_mirror"):
                continue
            picture = on_white(Image.open(path))
            picture.thumbnail((128, 128))
            save(picture, out, "test" if is_test(path.name, 3) else "train", label, path.stem, path.stem, 4)


def glyphs(packages, out):
    """Capital letters, 28x28, black on white, of the fonts in these packages and in no others that may be installed."""
    files = subprocess.check_output(["dpkg", "-L", *pathlib.Path(packages).read_text().split()], text=True).splitlines()
    found = {}
    for path in sorted(pathlib.Path(file) for file in set(files) if file.endswith((".otf", ".ttf"))):
        try:
            font = ImageFont.truetype(str(path), 24)
        except OSError:
            continue
        # Of each family the first cut: others look alike.
        found.setdefault(font.getname()[0], font)
    for family, font in found.items():
        drawn = {}
        for letter in string.ascii_uppercase:
            box = font.getbbox(letter)
            picture = Image.new("L", (28, 28), 255)
            width, height = box[2] - box[0], box[3] - box[1]
            ImageDraw.Draw(picture).text(((28 - width) / 2 - box[0], (28 - height) / 2 - box[1]), letter, 0, font)
            drawn[letter] = picture
        # Fonts without Latin letters show the same box for all.
        if len({picture.tobytes() for picture in drawn.values()}) < 26:
            continue
        part = "test" if is_test(family, 3) else "train"
        name = "".join(c for c in family if c.isalnum())
        for letter, picture in drawn.items():
            save(picture, out, part, letter, name, name, 5)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--emoji", help="folder with the archives of npm")
    parser.add_argument("--vendors", nargs="+", choices=VENDORS, default=VENDORS, help="whose emoji (all four)")
    parser.add_argument("--stamps", help="folder of Tux Paint's stamps")
    parser.add_argument("--fonts", help="file with the names of Debian packages of fonts")
    args = parser.parse_args()
    made = []
    if args.emoji:
        emoji(args.emoji, args.out / "emoji", args.vendors)
        made.append("emoji")
    for make, source in [(stamps, args.stamps), (glyphs, args.fonts)]:
        if source:
            make(source, args.out / make.__name__)
            made.append(make.__name__)
    if not made:
        parser.error("name at least one of --emoji, --stamps and --fonts")
    for name in made:
        counts = [len(list((args.out / name / part).rglob("*.png"))) for part in ("train", "test")]
        print(f"{name}: {counts[0]} training and {counts[1]} test pictures", file=sys.stderr)


if __name__ == "__main__":
    main()
