"""Train the n-gram models that perplexity is measured with, one for each language, and their tokenizers.

As CCNet's (Wenzek et al. 2020, arXiv:1911.00359, "LM filtering"): text is normalised and divided into pieces of
SentencePiece, and a 5-gram model with interpolated modified Kneser-Ney smoothing is estimated from them, as by KenLM's
`lmplz`. The models are ARPA files, which KenLM reads. See docs/sources/ccnet.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from data_prep.config import DataConfig
from data_prep.corpora import Corpus, Files, KeptDocuments
from data_prep.languages import canonical_setting
from data_prep.ngrams.pieces import PIECES
from data_prep.ngrams.train import NGramSettings, Trained, train
from data_prep.sources import KINDS
from foundation.configuration import load_config
from foundation.progress import summary_table

EXAMPLES = """examples:
  altiplano data train-ngrams --files dewiki-latest-pages-articles-multistream.xml.bz2 --kind wikipedia \\
      --languages de --output models
      models/de.arpa and models/de.sp.model from a dump of Wikipedia
  altiplano data train-ngrams --config wiki.yaml --languages en,de,fr --output models
      from what a run of data preparation keeps in each of three languages
  altiplano data train-ngrams --files text.jsonl.zst --languages sw --output models --pieces 8000 --discount-fallback
      from little text

then, in the configuration of the corpus whose perplexity is measured:
  perplexity:
    de: {model: models/de.arpa, tokenizer: models/de.sp.model}"""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    settings = NGramSettings
    parser = argparse.ArgumentParser(
        prog="altiplano data train-ngrams",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    corpus = parser.add_mutually_exclusive_group(required=True)
    corpus.add_argument(
        "--config", type=Path, metavar="FILE", help="of a run of data_prep; its kept documents are read"
    )
    corpus.add_argument(
        "--files", nargs="+", metavar="PATH", help="files, folders, patterns or addresses, of one language"
    )
    parser.add_argument("overrides", nargs="*", metavar="NAME=VALUE", help="settings that win over those of --config")
    parser.add_argument("--kind", choices=KINDS, default="jsonl", help="kind of --files; jsonl", metavar="KIND")
    parser.add_argument("--text-field", metavar="NAME", help="field with the text, of kinds with fields; text")
    parser.add_argument("--languages", required=True, metavar="CODES", help="ISO 639 codes with commas between: en,de")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="gets CODE.arpa and CODE.sp.model")
    parser.add_argument("--tokenizer", type=Path, metavar="FILE", help="model of SentencePiece; left out: trained")
    parser.add_argument("--pieces", type=int, help=f"of a tokenizer that is trained; {PIECES:,}")
    parser.add_argument("--order", type=int, default=settings.order, help=f"words in an n-gram; {settings.order}")
    parser.add_argument(
        "--prune",
        type=int,
        nargs="+",
        default=list(settings.prune),
        metavar="COUNT",
        help="leave out n-grams that occur at most so often, for each order from 1 on: 0 0 1 leaves out those of three "
        "and more words that occur once; nothing is left out",
    )
    parser.add_argument(
        "--discount-fallback",
        action="store_true",
        help="take fixed discounts for orders that have too few different counts, as of small or repetitive text",
    )
    parser.add_argument("--documents", type=int, metavar="N", help="read the first N only; CCNet reads 1,000,000")
    parser.add_argument("--memory-bytes", type=int, default=1_000_000_000, help="for sorting; 1,000,000,000")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and print the lines of the configuration; the exit code is 2 when something does not fit."""
    given = make_parser().parse_intermixed_args(arguments)
    try:
        languages = canonical_setting(given.languages.split(","))
        corpus_of = _corpora(given, languages)
        settings = _settings(given)
        trained = {}
        for language in languages:
            corpus = corpus_of(language)
            trained[language] = train(corpus, language, given.output, given.tokenizer, settings)
            _tell(language, trained[language], corpus)
    except (ValueError, OSError) as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return 2
    print("perplexity:")
    for language, files in trained.items():
        print(f"  {language}:\n    model: {files.model}\n    tokenizer: {files.tokenizer}")
    return 0


def _corpora(given: argparse.Namespace, languages: Sequence[str]) -> Callable[[str], Corpus]:
    """Return the corpus of each language.

    Raises:
        ValueError: an option has no effect, or files are to be of several languages.
    """
    if given.config is not None:
        for option, value in (("--kind", given.kind != "jsonl"), ("--text-field", given.text_field is not None)):
            if value:
                raise ValueError(f"{option}: has no effect beside --config, whose documents are read")
        config = load_config(DataConfig, given.config, given.overrides)
        return lambda language: KeptDocuments(config, language)
    if given.overrides:
        raise ValueError(f"{given.overrides[0]}: has no effect without --config")
    if len(languages) > 1:
        raise ValueError(f"--languages {given.languages}: --files are of one language; run the command for each")
    return lambda _: Files(given.kind, given.files, given.text_field)


def _settings(given: argparse.Namespace) -> NGramSettings:
    if given.tokenizer is not None and given.pieces is not None:
        raise ValueError("--pieces: has no effect beside --tokenizer, which has its own")
    if given.documents is not None and given.documents < 1:
        raise ValueError(f"--documents {given.documents}: must be at least 1")
    return NGramSettings(
        pieces=PIECES if given.pieces is None else given.pieces,
        memory_bytes=given.memory_bytes,
        order=given.order,
        prune=tuple(given.prune),
        discount_fallback=given.discount_fallback,
        documents=given.documents,
    )


def _tell(language: str, trained: Trained, corpus: Corpus) -> None:
    summary = trained.summary
    rows = [(f"{one.n}-grams", one.ngrams, one.kept, *one.discounts) for one in summary.orders]
    title = f"{trained.model}: {summary.tokens:,} pieces in {summary.sentences:,} lines"
    summary_table(title, rows, ("", "different", "kept", "D1", "D2", "D3+"))
    if corpus.left_out:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in corpus.left_out.most_common())
        print(f"{language}: left out: {reasons}")


if __name__ == "__main__":
    sys.exit(main())
