"""Draws the drivable area and the lane lines into a picture of a street.

    edgebig compile best.onnx -o twinlitenet.bundle --target cpu --recipe twinlitenet
    python examples/lanes.py twinlitenet.bundle street.jpg -o street_lanes.png

The model (TwinLiteNet) gives two score maps, ``da`` and ``ll``, each ``[1, 2, 360, 640]``: the scores
of "no" and "yes" for every pixel.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import edgebig
from edgebig.bundle import PREPROCESS, Bundle
from edgebig.errors import EdgebigError
from edgebig.preprocess import Preprocess
from edgebig.tasks.vision import overlay, prepare, save_picture

GREEN, RED = (0, 200, 80), (255, 40, 40)


def main() -> None:
    """Runs the model on one picture and writes the drawing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True, help="picture to write")
    arguments = parser.parse_args()
    how = Preprocess.from_json(json.loads(Bundle.open(arguments.bundle).file(PREPROCESS).read_text(encoding="utf-8")))
    with edgebig.load(arguments.bundle) as session:
        spec = session.inputs[0]
        outputs = session.run({spec.name: prepare(arguments.picture, how).astype(spec.dtype)})
    missing = {"da", "ll"} - outputs.keys()
    if missing:
        sys.exit(f"error: {arguments.bundle} has no output {min(missing)!r}: give it the bundle of TwinLiteNet")
    area, lines = (outputs[name][0].argmax(axis=0) for name in ("da", "ll"))
    save_picture(overlay(arguments.picture, [area, lines], [GREEN, RED]), arguments.output)
    print(f"drivable area {area.mean():.1%}, lane lines {lines.mean():.1%} of the picture: {arguments.output}")


if __name__ == "__main__":
    try:
        main()
    except EdgebigError as error:
        sys.exit(f"error: {error}")
