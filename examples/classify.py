"""Says what is on pictures.

    edgebig compile squeezenet1.1_fp32.onnx -o squeezenet.bundle --target cpu --recipe imagenet-caffe
    python examples/classify.py squeezenet.bundle banana.jpg orange.jpg

Prints the five most probable classes of each picture with their probabilities. Without ``--labels``
(a text file with one name a line, in the model's order) a class is its index.
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
from edgebig.tasks.vision import classify, prepare


def main() -> None:
    """Classifies each picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("pictures", type=Path, nargs="+")
    parser.add_argument("--labels", type=Path, help="text file with one class name a line")
    parser.add_argument("--top", type=int, default=5)
    arguments = parser.parse_args()
    labels = arguments.labels.read_text(encoding="utf-8").splitlines() if arguments.labels else None
    bundle = Bundle.open(arguments.bundle)
    if PREPROCESS not in bundle.manifest.files:
        sys.exit(f"error: {arguments.bundle} does not say how it wants pictures: compile it with a recipe that does")
    how = Preprocess.from_json(json.loads(bundle.file(PREPROCESS).read_text(encoding="utf-8")))
    with edgebig.load(arguments.bundle) as session:
        spec, output = session.inputs[0], session.outputs[0]
        for picture in arguments.pictures:
            batch = prepare(picture, how).astype(spec.dtype)
            (best,) = classify(session.run({spec.name: batch})[output.name], labels, arguments.top)
            print(picture)
            for score in best:
                print(f"  {score.probability:6.1%}  {score.label}")


if __name__ == "__main__":
    try:
        main()
    except EdgebigError as error:
        sys.exit(f"error: {error}")
