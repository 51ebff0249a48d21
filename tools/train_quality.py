"""Train a classifier that tells pages of one kind from others, in fastText's format.

    altiplano data train-quality --pages pages.jsonl.zst --cited enwiki-pages-articles.xml.bz2 --output quality.bin
    altiplano data train-quality --cited-pages good.jsonl --other-pages random.jsonl --output quality.bin

As LLaMA's (Touvron et al. 2023, arXiv:2302.13971, section 2.1): pages that Wikipedia cites as a reference, against
random pages. `--cited` is a list of addresses, one a line, or a dump of MediaWiki, from which the addresses inside of
<ref> are taken; `--pages` are JSON lines with `url` and `text`. Files may be packed (.gz, .bz2, .zst).

The model is fastText's linear one (Joulin et al. 2017, arXiv:1607.01759): the mean of the vectors of all words, softmax
over two labels, stochastic gradient descent with a rate that falls to zero; no n-grams. `quality.model` names it then.
A tenth of the pages is held out and tells how good it is.
"""

from __future__ import annotations

import argparse
import json
import re
import struct
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data_prep.signals.fasttext.file import MAGIC, SOFTMAX, SUPERVISED
from data_prep.signals.fasttext.kernel import LABEL, sample_text
from data_prep.signals.quality import SAMPLE_CHARACTERS, SAMPLE_PIECES, QualityClassifier
from foundation.atomic_files import whole_file
from foundation.progress import Progress

CITED, OTHER = "cited", "other"
_END_OF_LINE = b"</s>"
_REFERENCE = re.compile(r"(?:<|&lt;)ref\b[^/]*?(?:>|&gt;)(.*?)(?:<|&lt;)/ref", re.DOTALL)
_ADDRESS = re.compile(r"https?://[^\s|\]}<>\"'&]+")
_PACKED = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
_PART = 1 << 22


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, write the model, and print what it says of the pages that were held out."""
    given = make_parser().parse_args(arguments)
    try:
        cited, others = _pages(given)
        if min(len(cited), len(others)) < 10:
            raise ValueError(f"{len(cited)} pages are cited and {len(others)} are others; ten of each are the least")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    generator = np.random.default_rng(given.seed)
    # as many of one kind as of the other, so that one half is the natural threshold
    size = min(len(cited), len(others))
    cited, others = ([pages[k] for k in generator.permutation(len(pages))[:size]] for pages in (cited, others))
    held_out = max(size // 10, 1)
    train(
        given.output,
        [*cited[held_out:], *others[held_out:]],
        [True] * (size - held_out) + [False] * (size - held_out),
        dimension=given.dimension,
        epochs=given.epochs,
        rate=given.rate,
        least_count=given.least_count,
        seed=given.seed,
    )
    good, bad = (_probabilities(given.output, pages[:held_out]) for pages in (cited, others))
    right = (good >= 0.5).mean(), (bad < 0.5).mean()
    wins = (good[:, None] > bad[None, :]).mean() + (good[:, None] == bad[None, :]).mean() / 2
    print(
        f"held out: {held_out} pages of each kind; cited ones recognised {right[0]:.1%}, others {right[1]:.1%}; "
        f"area under the curve {wins:.3f}\nnext: quality.model={given.output} and `quality` among a source's rules"
    )
    return 0


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="altiplano data train-quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--pages", type=Path, help="JSON lines with `url` and `text`; those of --cited are the good ones"
    )
    parser.add_argument("--cited", type=Path, help="addresses, one a line, or a dump of MediaWiki (.xml)")
    parser.add_argument("--cited-pages", type=Path, help="JSON lines with `text`, instead of the two above")
    parser.add_argument("--other-pages", type=Path, help="JSON lines with `text`, random pages")
    parser.add_argument("--output", type=Path, required=True, help="the model, .bin")
    parser.add_argument("--dimension", type=int, default=16, help="of the vectors of words")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rate", type=float, default=0.1, help="at the beginning")
    parser.add_argument("--least-count", type=int, default=2, help="rarer words are left out")
    parser.add_argument("--seed", type=int, default=1)
    return parser


def _pages(given: argparse.Namespace) -> tuple[list[bytes], list[bytes]]:
    by_address = given.pages is not None and given.cited is not None
    by_file = given.cited_pages is not None and given.other_pages is not None
    if by_address == by_file:
        raise ValueError("give either --pages and --cited, or --cited-pages and --other-pages")
    if by_file:
        return [text for _, text in _rows(given.cited_pages)], [text for _, text in _rows(given.other_pages)]
    addresses = set(cited_addresses(given.cited))
    cited: list[bytes] = []
    others: list[bytes] = []
    for url, text in _rows(given.pages):
        (cited if url and address_key(url) in addresses else others).append(text)
    return cited, others


def _rows(path: Path) -> Iterator[tuple[str, bytes]]:
    for number, line in enumerate(_lines(path), 1):
        try:
            row = json.loads(line)
            yield row.get("url") or "", sample_text(row["text"].encode(), SAMPLE_CHARACTERS, SAMPLE_PIECES)
        except (ValueError, KeyError, AttributeError) as error:
            raise ValueError(f"{path}:{number}: not a JSON object with `text` ({error!r})") from None


def _parts(path: Path) -> Iterator[bytes]:
    with pa.input_stream(str(path), compression=_PACKED.get(path.suffix)) as stream:
        while part := stream.read(_PART):
            yield part


def _lines(path: Path) -> Iterator[bytes]:
    left = b""
    for part in _parts(path):
        *lines, left = (left + part).split(b"\n")
        yield from lines
    if left:
        yield left


def address_key(url: str) -> str:
    """Host without `www.`, path without a final slash, and query: http or https and what follows # do not matter."""
    try:
        parts = urlsplit(url.strip())
        host = (parts.hostname or "").removeprefix("www.")
    except ValueError:
        return ""
    return f"{host}{parts.path.rstrip('/')}{'?' + parts.query if parts.query else ''}"


def cited_addresses(path: Path) -> Iterator[str]:
    """Keys of the addresses in a list, or inside of <ref> in a dump of MediaWiki."""
    if ".xml" not in path.suffixes:
        yield from (key for line in _lines(path) if (key := address_key(line.decode("utf-8", "replace"))))
        return
    left = ""
    for part in _parts(path):
        text = left + part.decode("utf-8", "replace")
        done = 0
        for reference in _REFERENCE.finditer(text):
            done = reference.end()
            yield from (address_key(address) for address in _ADDRESS.findall(reference[1]))
        left = text[max(done, len(text) - 20_000) :]  # a reference may go on in the next part


def train(
    path: Path,
    texts: Sequence[bytes],
    is_cited: Sequence[bool],
    dimension: int = 16,
    epochs: int = 5,
    rate: float = 0.1,
    least_count: int = 2,
    seed: int = 1,
) -> None:
    """Train on texts and write the model."""
    counts = Counter(word for text in texts for word in text.split())
    words = [_END_OF_LINE, *(word for word, count in counts.most_common() if count >= least_count)]
    rows = {word: row for row, word in enumerate(words)}
    ids = [np.array([0, *(rows[word] for word in text.split() if word in rows)], dtype=np.int32) for text in texts]
    bounds = np.cumsum([0, *map(len, ids)], dtype=np.int64)
    generator = np.random.default_rng(seed)
    inputs = generator.uniform(-1 / dimension, 1 / dimension, size=(len(words), dimension)).astype(np.float32)
    outputs = np.zeros((2, dimension), dtype=np.float32)
    flat, labels = np.concatenate(ids), np.array([0 if good else 1 for good in is_cited], dtype=np.int64)
    with Progress("train", epochs, "epochs") as progress:
        for epoch in range(epochs):
            order = generator.permutation(len(texts))
            _epoch(flat, bounds, labels, order, rate, epoch / epochs, 1 / epochs, inputs, outputs)
            progress.advance()
    label_counts = Counter(labels.tolist())
    entries = [(word, counts[word] or len(texts), 0) for word in words]
    entries += [((LABEL + name).encode(), label_counts[k], 1) for k, name in enumerate((CITED, OTHER))]
    with whole_file(path) as partial_file, open(partial_file, "wb") as file:
        settings = (dimension, 5, epochs, least_count, 5, 1, SOFTMAX, SUPERVISED, 0, 0, 0, 100)
        file.write(struct.pack("<ii12id", MAGIC, 12, *settings, 1e-4))
        file.write(struct.pack("<iiiqq", len(entries), len(words), 2, int(bounds[-1]), -1))
        for name, count, kind in entries:
            file.write(name + b"\0" + struct.pack("<qb", count, kind))
        for matrix in (inputs, outputs):
            file.write(struct.pack("<?qq", False, *matrix.shape))
            file.write(matrix.astype("<f4").tobytes())


@numba.njit(cache=True)
def _epoch(words, bounds, labels, order, rate, begun, share, inputs, outputs):  # type: ignore[no-untyped-def]
    dimension = inputs.shape[1]
    hidden, gradient = np.empty(dimension, np.float32), np.empty(dimension, np.float32)
    for step in range(order.shape[0]):
        text = order[step]
        step_rate = np.float32(rate * (1 - begun - share * step / order.shape[0]))
        first, last = bounds[text], bounds[text + 1]
        hidden[:] = 0
        for k in range(first, last):
            hidden += inputs[words[k]]
        hidden /= np.float32(last - first)
        difference = np.float32(0)
        for k in range(dimension):
            difference += (outputs[1, k] - outputs[0, k]) * hidden[k]
        probability = np.float32(1 / (1 + np.exp(difference)))  # of the first label
        error = (np.float32(1) if labels[text] == 0 else np.float32(0)) - probability
        for k in range(dimension):
            gradient[k] = step_rate * error * (outputs[0, k] - outputs[1, k]) / np.float32(last - first)
            outputs[0, k] += step_rate * error * hidden[k]
            outputs[1, k] -= step_rate * error * hidden[k]
        for k in range(first, last):
            inputs[words[k]] += gradient


def _probabilities(model: Path, texts: Iterable[bytes]) -> npt.NDArray[np.float64]:
    held = list(texts)
    offsets = np.cumsum([0, *map(len, held)]).astype(np.int64)
    found = QualityClassifier(model, CITED).probabilities(np.frombuffer(b"".join(held), dtype=np.uint8), offsets)
    return np.array(found)


if __name__ == "__main__":
    sys.exit(main())
