"""Train a classifier that tells pages of one kind from others, in fastText's format.

As LLaMA's (Touvron et al. 2023, arXiv:2302.13971, section 2.1): pages that Wikipedia cites as references, against
random pages. `--cited` is a dump of MediaWiki, whose references are read and listed beside the classifier, or such a
list, one web address a line. Pages are those of files (`--pages`, of any kind that data preparation reads) or of a run
of data preparation (`--config`): the ones whose address is cited are the wanted ones, random others are not. See
docs/sources/ccnet.md.

The model is fastText's linear one (Joulin et al. 2017, arXiv:1607.01759): the mean of the vectors of all words, softmax
over two labels, stochastic gradient descent with a rate that falls to zero; no n-grams. `quality.model` names it then.
A tenth of the pages is held out and tells how good it is.
"""

from __future__ import annotations

import argparse
import struct
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numba
import numpy as np
import numpy.typing as npt

from data_prep.citations import Keys, is_cited, is_dump, list_citations, read_list
from data_prep.config import DataConfig
from data_prep.corpora import Corpus, ExtractedDocuments, Files
from data_prep.signals.fasttext.file import MAGIC, SOFTMAX, SUPERVISED
from data_prep.signals.fasttext.kernel import LABEL, sample_text
from data_prep.signals.quality import SAMPLE_CHARACTERS, SAMPLE_PIECES, QualityClassifier
from data_prep.sources import KINDS
from foundation.atomic_files import whole_file
from foundation.configuration import load_config
from foundation.progress import Progress, summary_table

EXAMPLES = """examples:
  altiplano data train-quality --cited enwiki-latest-pages-articles-multistream.xml.bz2 --pages crawl/ --kind warc \\
      --output quality.bin --workers 16
      a dump of Wikipedia and a folder of `altiplano data crawl`; lists the cited addresses in quality.cited.txt
  altiplano data train-quality --cited quality.cited.txt --config web.yaml --output quality.bin
      the same list, and the pages of a run of data preparation
  altiplano data train-quality --cited-pages good.jsonl --other-pages random.jsonl --output quality.bin
      pages of your own choice

then, in the configuration of the corpus:
  quality: {model: quality.bin}        and the rule set `quality` among a source's rules"""

CITED, OTHER = "cited", "other"
_END_OF_LINE = b"</s>"
_FEWEST = 10


class Sample:
    """At most so many of some pages, each with the same probability (reservoir sampling)."""

    def __init__(self, most: int, seed: int) -> None:
        self._most = most
        self._generator = np.random.default_rng(seed)
        self.seen = 0
        self.pages: list[bytes] = []

    def add(self, text: str) -> None:
        self.seen += 1
        place = self.seen - 1 if self.seen <= self._most else int(self._generator.integers(self.seen))
        if place >= self._most:
            return
        page = sample_text(text.encode(), SAMPLE_CHARACTERS, SAMPLE_PIECES)
        if place == len(self.pages):
            self.pages.append(page)
        else:
            self.pages[place] = page


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, write the model, and print what it says of the pages that were held out."""
    given = make_parser().parse_intermixed_args(arguments)
    try:
        cited, others = _pages(given)
        if min(len(cited), len(others)) < _FEWEST:
            raise ValueError(
                f"{len(cited)} pages are cited and {len(others)} are others; {_FEWEST} of each are the least: give "
                "more pages"
            )
    except (ValueError, OSError) as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
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
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="altiplano data train-quality",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--cited", type=Path, metavar="FILE", help="dump of MediaWiki (.xml, also compressed), or addresses, one a line"
    )
    parser.add_argument("--pages", nargs="+", metavar="PATH", help="files, folders, patterns or addresses with pages")
    parser.add_argument("--kind", choices=KINDS, default="jsonl", metavar="KIND", help="kind of --pages; jsonl")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="of a run, whose pages are taken, instead of --pages"
    )
    parser.add_argument("overrides", nargs="*", metavar="NAME=VALUE", help="settings that win over those of --config")
    parser.add_argument("--cited-pages", metavar="PATH", help="JSON lines with `text`, instead of all of these")
    parser.add_argument("--other-pages", metavar="PATH", help="JSON lines with `text`, random pages")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the model, .bin")
    parser.add_argument("--most-pages", type=int, default=100_000, help="of each kind, drawn by the seed; 100,000")
    parser.add_argument("--workers", type=int, default=2, help="processes that read a dump; 2")
    parser.add_argument("--dimension", type=int, default=16, help="of the vectors of words; 16")
    parser.add_argument("--epochs", type=int, default=5, help="passes over the pages; 5")
    parser.add_argument("--rate", type=float, default=0.1, help="at the beginning; 0.1")
    parser.add_argument("--least-count", type=int, default=2, help="rarer words are left out; 2")
    parser.add_argument("--seed", type=int, default=1, help="of every choice; 1")
    return parser


def _pages(given: argparse.Namespace) -> tuple[list[bytes], list[bytes]]:
    """Return samples of the cited pages and of others.

    Raises:
        ValueError: options do not fit together, or a file cannot be read.
    """
    by_file = given.cited_pages is not None and given.other_pages is not None
    by_address = given.cited is not None and (given.pages is None) != (given.config is None)
    named = [name for name in ("cited", "pages", "config", "cited_pages", "other_pages") if getattr(given, name)]
    if not (by_file or by_address) or len(named) != 2:
        raise ValueError("give --cited with either --pages or --config, or --cited-pages with --other-pages")
    if given.overrides and given.config is None:
        raise ValueError(f"{given.overrides[0]}: has no effect without --config")
    for option, value in (("--most-pages", given.most_pages), ("--workers", given.workers)):
        if value < 1:
            raise ValueError(f"{option} {value}: must be at least 1")
    cited, others = (Sample(given.most_pages, given.seed + k) for k in range(2))
    if by_file:
        for sample, path in ((cited, given.cited_pages), (others, given.other_pages)):
            for _, text in _read(Files("jsonl", [path])):
                sample.add(text)
        return cited.pages, others.pages
    corpus: Corpus
    if given.config is not None:
        corpus = ExtractedDocuments(load_config(DataConfig, given.config, given.overrides))
    else:
        corpus = Files(given.kind, given.pages)
    keys = _cited_keys(given)
    for url, text in _read(corpus):
        (cited if is_cited(keys, url) else others).add(text)
    print(f"train-quality: {cited.seen:,} of {cited.seen + others.seen:,} pages are cited")
    return cited.pages, others.pages


def _cited_keys(given: argparse.Namespace) -> Keys:
    if not is_dump(given.cited):
        return read_list(given.cited)
    listed = given.output.with_suffix(".cited.txt")
    keys, counts = list_citations(given.cited, listed, given.workers)
    first = ("articles", "addresses")
    rows = [(name, counts[name]) for name in first]
    rows += [(f"left out: {name}", count) for name, count in sorted(counts.items()) if name not in first]
    summary_table(f"{listed}: addresses that {given.cited.name} cites", rows, ("", "number"))
    return keys


def _read(corpus: Corpus) -> Iterator[tuple[str, str]]:
    """Yield addresses and texts of a corpus; at the end, say what could not be used."""
    with Progress("train-quality: read pages", corpus.size, "bytes") as progress:
        for page in corpus.read(progress.advance):
            yield page.url, page.text
    if corpus.left_out:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in corpus.left_out.most_common())
        print(f"train-quality: left out: {reasons}")


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
