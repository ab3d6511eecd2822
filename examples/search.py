"""Searches sentences by meaning, not by words.

    edgebig compile sentence-transformers/all-MiniLM-L6-v2 -o minilm.bundle --target cpu --recipe sentence-embedding
    python examples/search.py minilm.bundle "a vehicle stops for someone crossing the street"

Prints the nearest of the sentences in ``sentences.txt`` (or of your own file, one a line) with the cosine.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import edgebig
from edgebig import Session
from edgebig.bundle import Bundle
from edgebig.errors import EdgebigError
from edgebig.tasks.text import Tokenizer, mean_pool, search


def main() -> None:
    """Embeds the sentences and the query, and prints the nearest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("query")
    parser.add_argument("--sentences", type=Path, default=Path(__file__).with_name("sentences.txt"))
    parser.add_argument("--top", type=int, default=5)
    arguments = parser.parse_args()
    sentences = [line for line in arguments.sentences.read_text(encoding="utf-8").splitlines() if line.strip()]
    tokenizer = Tokenizer(Bundle.open(arguments.bundle).file("processor/tokenizer.json"))
    with edgebig.load(arguments.bundle) as session:
        vectors = np.concatenate([embed(session, tokenizer, sentence) for sentence in sentences])
        query = embed(session, tokenizer, arguments.query)
    for index, cosine in search(query, vectors, arguments.top):
        print(f"{cosine:6.3f}  {sentences[index]}")


def embed(session: Session, tokenizer: Tokenizer, text: str) -> NDArray[np.float32]:
    """The text's vector ``[1, D]``. Texts go one by one, so that it also runs where the batch is fixed to 1."""
    length = session.inputs[0].shape[1]
    tokens = tokenizer(text, pad_to=length) if isinstance(length, int) else tokenizer(text, max_length=256)
    outputs = session.run({spec.name: tokens[spec.name] for spec in session.inputs})
    return mean_pool(outputs[session.outputs[0].name], tokens["attention_mask"])


if __name__ == "__main__":
    try:
        main()
    except EdgebigError as error:
        sys.exit(f"error: {error}")
