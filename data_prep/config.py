"""All settings of data preparation and their defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from data_prep.conversations.cleaning import known_cleaning
from data_prep.conversations.forms import Form
from data_prep.conversations.templates import Learnt
from data_prep.languages import canonical_setting
from data_prep.rules import known_rule_set, rules_named
from data_prep.sources import KINDS_OF_PAGES, KINDS_WITH_FIELDS, Extractor, known_kind
from data_prep.sources.fields import OPTIONS as FIELD_OPTIONS
from data_prep.sources.fields import parse_template
from data_prep.sources.storage import checked_address, scheme_of
from foundation.configuration import Settings

TokenizerKind = Literal["byte_level_bpe", "sentencepiece_bpe"]


def _refuse_address(value: object) -> object:
    """Return a path unchanged; refuse an address such as `s3://bucket`."""
    scheme = scheme_of(str(value))
    if scheme:
        raise ValueError(
            f"{str(value)!r}: {scheme}:// is supported for input only; mount the storage as a folder, or copy the "
            "files when the run is done"
        )
    return value


InputPath = Annotated[str, AfterValidator(checked_address)]
LocalPath = Annotated[Path, BeforeValidator(_refuse_address)]
"""Path in the file system."""


NAME = r"^[a-z0-9][a-z0-9_]*$"
"""Pattern of names that users give, in file names and reasons."""

T = TypeVar("T")


def _by_name(value: dict[str, T]) -> dict[str, T]:
    """Replace the codes of languages in a setting by their canonical names."""
    return dict(zip(canonical_setting(value), value.values(), strict=True))


class SourceConfig(Settings):
    """Named source of raw files."""

    name: str = Field(pattern=NAME)
    """Name of the source, in file names, in the ledger and in the mixture."""
    kind: Annotated[str, AfterValidator(known_kind)]
    """Kind of raw text, which decides how files become documents, see `data_prep/sources`."""
    """One of `data_prep.sources.KINDS`."""
    paths: tuple[InputPath, ...] = Field(min_length=1)
    """Files, folders (searched in depth for files of this kind) or glob patterns, sorted before they are frozen;
    on this machine's file systems, or at an address: `s3://bucket/folder/`, `gs://bucket/*.parquet`,
    `https://host/file.warc.gz`, `hf://datasets/owner/name`.

    `~` is the home folder, `{python_library}` and `{site_packages}` are the folders of the running Python. A path that
    matches nothing on this machine is reported; it is an error only if no source has any input.
    """
    exclude: tuple[InputPath, ...] = ()
    """Files, folders or glob patterns of `paths` that are left out, written as those are. One that matches nothing is
    reported."""
    rules: tuple[Annotated[str, AfterValidator(known_rule_set)], ...] = ("gopher", "language")
    """Rule sets that a document of this source must pass: keys of `data_prep.rules.RULE_SETS`."""
    weight: float | None = Field(default=None, gt=0)
    """Weight in the training mixture, relative to other sources; left out: in proportion to real tokens."""
    arrival: int = Field(default=0, ge=0, lt=2048)
    """When the source arrived: 0 for the corpus as it was first made, 1 for what `altiplano data add` added first, and
    so on. Of two copies, the one that arrived first stays, and the tokenizer learns from arrival 0 alone, so that what
    is there remains as it is."""
    maximum_bytes: int | None = Field(default=None, gt=0)
    """Largest number of bytes of raw files to read; files are chosen by a hash of their path and the seed."""
    largest_files: int | None = Field(default=None, gt=0)
    """Number of raw files to read, the largest ones, such as the 28 sites of Stack Exchange that LLaMA took."""
    text_field: str | None = Field(default=None, min_length=1)
    """Field or column with the text, of kinds `jsonl`, `parquet` and `arrow`; left out: `text`. Fields of objects in
    objects are joined with dots: `data.body`."""
    text_template: str | None = Field(default=None, min_length=1)
    """Text made of several fields, named in braces: `"{title}\\n\\n{data.body}"`. A record without one of them, or
    with a null there, is set aside."""
    id_field: str | None = Field(default=None, min_length=1)
    """Field by which documents are known, a string or a number; left out: `url`, where there is one. It is shown by the
    ledger and for each training sample, and `altiplano data why` finds a document by it. Rules on web addresses and
    `dedup.line_scope: site` read it too, so that it has to be an address for them."""
    user_names: bool = False
    """User names such as `@jane` are personal data too, replaced by `PI:USER`, as in ROOTS (Laurençon et al. 2022,
    arXiv:2303.03915); not for source code, whose decorators look the same."""
    form: Form | None = None
    """Form of the records of kind `conversations`, see `data_prep/conversations/forms.py`."""
    question_field: str | None = None
    """Field with the question, of form `pairs`; left out: one of the usual names."""
    answer_field: str | None = None
    """Field with the answer, of form `pairs`; given if `question_field` is."""
    oasst_paths: Literal["best", "all"] = "best"
    """Conversations of a tree of form `oasst`: that of the best ranked messages, or one for each leaf."""
    clean: Annotated[tuple[str, ...], AfterValidator(known_cleaning)] = ()
    """Rules that change or set aside conversations, applied in the order of `data_prep/conversations/cleaning.py`;
    `sharegpt` names those of FastChat."""

    extractor: Extractor = "blocks"
    """What finds the main text of pages, of kinds `html` and `warc`, see [web pages](../sources/web_pages.md): `blocks`
    and `resiliparse` are installed, `trafilatura` is with the extra `trafilatura`."""
    markdown: bool = False
    """The main text is Markdown, with marks for headings, code, tables and quotations."""
    licenses: tuple[str, ...] = ("Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "MIT")
    """SPDX identifiers of licences under which files of kind `repository` are taken, by default LLaMA's (Touvron et al.
    2023, arXiv:2302.13971, section 2.1); empty: all files, whatever their licence."""

    @property
    def is_conversations(self) -> bool:
        return self.kind == "conversations"

    @property
    def options(self) -> dict[str, Any] | None:
        """Settings that are for sources of this kind alone; None: there are none."""
        if self.is_conversations:
            return {name: _plain(getattr(self, name)) for name in _OF_CONVERSATIONS}
        if self.kind == "repository":
            return {"licenses": list(self.licenses), "paths": list(self.paths)}
        if self.kind in KINDS_OF_PAGES:
            return {"extractor": self.extractor, "markdown": self.markdown}
        return {name: getattr(self, name) for name in FIELD_OPTIONS if getattr(self, name) is not None} or None

    @model_validator(mode="after")
    def _settings_are_of_the_kind(self) -> SourceConfig:
        for name in FIELD_OPTIONS:
            if self.kind not in KINDS_WITH_FIELDS and getattr(self, name) is not None:
                raise ValueError(f"{name}: has no effect: kind is {self.kind!r}, not {' or '.join(KINDS_WITH_FIELDS)}")
        if self.text_field is not None and self.text_template is not None:
            raise ValueError("text_field: has no effect beside text_template, which names the fields")
        if self.text_template is not None:
            parse_template(self.text_template)
        for name in ("extractor", "markdown"):
            if self.kind not in KINDS_OF_PAGES and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name}: has no effect: kind is {self.kind!r}, not {' or '.join(KINDS_OF_PAGES)}")
        if self.markdown and self.extractor == "resiliparse":
            raise ValueError("markdown: extractor 'resiliparse' does not write it; choose 'blocks' or 'trafilatura'")
        if self.kind != "repository" and self.licenses != type(self).model_fields["licenses"].default:
            raise ValueError(f"licenses: has no effect: kind is {self.kind!r}, not repository")
        for name in _OF_CONVERSATIONS:
            if not self.is_conversations and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name}: has no effect: kind is {self.kind!r}, not conversations")
        if not self.is_conversations:
            return self
        if self.form is None:
            raise ValueError(f"form: missing; kind conversations needs one of {', '.join(get_args(Form))}")
        for name, form in (("question_field", "pairs"), ("answer_field", "pairs"), ("oasst_paths", "oasst")):
            if self.form != form and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name}: has no effect: form is {self.form!r}, not {form}")
        if (self.question_field is None) != (self.answer_field is None):
            raise ValueError("question_field: must be given together with answer_field")
        return self


_OF_CONVERSATIONS = ("form", "question_field", "answer_field", "oasst_paths", "clean")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


class LanguageConfig(Settings):
    """fastText language identification."""

    model: LocalPath | None = None
    """fastText model file; left out: lid.176.ftz, which is installed with Altiplano."""
    minimum_probability: float = Field(default=0.65, ge=0, le=1)
    """Least probability of the language, by default FineWeb's (Penedo et al. 2024, arXiv:2406.17557, section 3.3)."""
    keep: Annotated[tuple[str, ...], AfterValidator(canonical_setting)] = ()
    """Codes of languages that are kept, see `data_prep/languages.py`; empty: all. A code with a script, such as
    `zh_Hant`, keeps that script only."""
    lines: bool = False
    """The language of each line is also identified (`line_languages`, `line_language_probabilities`)."""


class QualityConfig(Settings):
    """fastText classifier of pages, see `data_prep/signals/quality.py` and `tools/train_quality.py`."""

    model: LocalPath | None = None
    """fastText model with two labels; left out: `quality_probability` is not measured."""
    label: str = "cited"
    """Label of wanted pages."""
    minimum_probability: float = Field(default=0.5, ge=0, le=1)
    """Least probability in the rule set `quality`: by default, it drops pages that are more like the unwanted ones."""


class ScoreConfig(Settings):
    """Score that comes with the documents: a numeric field, or a column of Parquet files."""

    field: str = Field(min_length=1)
    """Field of a document's metadata, such as FineWeb-Edu's `score`; fields of objects in objects are joined with
    dots."""
    minimum: float | None = None
    """Least score in the rule set `scores`."""
    maximum: float | None = None
    """Largest score in the rule set `scores`."""
    without: Literal["drop", "keep"] = "drop"
    """Whether rules drop documents that do not have the score, or keep them."""

    @model_validator(mode="after")
    def _bounds_are_in_order(self) -> ScoreConfig:
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(f"minimum {self.minimum:g} must not be more than maximum {self.maximum:g}")
        return self


class SamplingConfig(Settings):
    """Share of the documents that the rule set `sampled` keeps, by their scores; see `data_prep/rules/sampling.py`."""

    score: str = "quality"
    """Name of a score of `scores`, or `quality`: the probability of the quality classifier."""
    shares: tuple[tuple[float, float], ...] = ()
    """Pairs of a score and the share of documents with it that is kept, `[[0, 0.05], [3, 0.5], [4, 1]]`; between them,
    shares follow a line, and outside they stay."""
    pareto: float | None = Field(default=None, gt=0)
    """α of GPT-3's rule, in place of shares, for scores from 0 to 1; GPT-3 has 9."""

    @model_validator(mode="after")
    def _names_shares(self) -> SamplingConfig:
        if (self.pareto is None) == (not self.shares):
            raise ValueError("shares: give either shares or pareto")
        scores = [score for score, _ in self.shares]
        if scores != sorted(set(scores)):
            raise ValueError(f"shares: scores must ascend, they are {', '.join(f'{score:g}' for score in scores)}")
        for score, share in self.shares:
            if not 0 <= share <= 1:
                raise ValueError(
                    f"shares: {share:g} at {score:g} must be from 0 to 1; the weight of a source makes its documents "
                    "more frequent"
                )
        return self


class LanguageModelConfig(Settings):
    """Language model for perplexity, see `data_prep/signals/perplexity.py`; needs the extra `perplexity`."""

    model: LocalPath
    """n-gram model in a format of KenLM: ARPA, or binary, which loads instantly and is shared by processes."""
    tokenizer: LocalPath
    """SentencePiece model that the n-gram model's training text was tokenized with."""
    head: float | None = Field(default=None, gt=1)
    """Largest perplexity that the rule set `ccnet_head` keeps. `altiplano data perplexity-bounds` prints CCNet's
    choice: the bound below which 30 % of the language's documents are."""
    middle: float | None = Field(default=None, gt=1)
    """Largest perplexity that `ccnet_middle` keeps; CCNet's choice keeps 60 %."""

    @model_validator(mode="after")
    def _rises(self) -> LanguageModelConfig:
        if self.head is not None and self.middle is not None and self.head >= self.middle:
            raise ValueError(f"head {self.head:g} must be less than middle {self.middle:g}")
        return self


class UrlConfig(Settings):
    """Lists of web addresses, see `data_prep/signals/urls.py`. Lists are text files with an entry per line; `#` begins
    a comment. A domain stands for all domains below it, an address for all that begin with it."""

    block: tuple[LocalPath, ...] = ()
    """Lists of domains and addresses that are not wanted: files, or folders with `CATEGORY/domains` and
    `CATEGORY/urls`, as UT1's."""
    categories: tuple[str, ...] = ()
    """Categories of the block lists that count, such as `adult` and `phishing`; empty: all."""
    allow: tuple[LocalPath, ...] = ()
    """Lists of domains and addresses that alone are wanted, in the same form."""
    subwords: LocalPath | None = None
    """List of words that must not occur anywhere in the name of a host."""
    words: LocalPath | None = None
    """List of words that must not occur in the name of a host between dots, hyphens or digits."""
    soft_words: LocalPath | None = None
    """List of words of which the name of a host may have one."""
    pages_per_domain: int | None = Field(default=None, gt=0)
    """Largest number of pages that are kept of a registered domain, such as `example.co.uk`, over all sources with the
    rule set `urls`: those with the smallest keyed hashes of their addresses, among the documents that no rule drops and
    that are no duplicates."""

    @property
    def has_lists(self) -> bool:
        return any((self.block, self.allow, self.subwords, self.words, self.soft_words))

    @model_validator(mode="after")
    def _categories_are_of_lists(self) -> UrlConfig:
        if self.categories and not self.block:
            raise ValueError("categories: has no effect without block")
        return self


class EvaluationSetConfig(Settings):
    """Set of evaluation items that documents are searched for, see `data_prep/signals/evaluations.py`."""

    path: LocalPath
    """JSON Lines with an item per line, also compressed, such as `altiplano data evaluation-set` writes."""
    text_field: str | None = Field(default=None, min_length=1)
    """Field with the text; left out: `text`. Fields of objects in objects are joined with dots."""
    text_template: str | None = Field(default=None, min_length=1)
    """Text made of several fields, named in braces: `"{question} {answer}"`."""
    id_field: str | None = Field(default=None, min_length=1)
    """Field that names an item; left out: its number, from 1."""

    @model_validator(mode="after")
    def _text_is_named_once(self) -> EvaluationSetConfig:
        if self.text_template is not None:
            if self.text_field is not None:
                raise ValueError("text_field: has no effect beside text_template, which names the fields")
            parse_template(self.text_template)
        return self


class FingerprintConfig(Settings):
    """MinHash: the settings of signatures, bands and verification."""

    shingle_words: int = Field(default=5, ge=1)
    """Number of words in a shingle, as in FineWeb (arXiv:2406.17557, section 3.4)."""
    bands: int = Field(default=14, ge=1)
    """Number of buckets that a signature is put into; documents that share one are compared. FineWeb has 14."""
    rows: int = Field(default=8, ge=1)
    """Number of hashes that must agree for a shared bucket, as in FineWeb: 14 × 8 = 112 hashes."""
    seed: int = 1
    """Seed of the hash functions."""
    sample_every: int = Field(default=16, ge=1)
    """Number of shingles of which one is kept, chosen by its hash, to find documents inside others; 16 adds about 8 %
    of the text's size to the signals."""

    @property
    def permutations(self) -> int:
        return self.bands * self.rows


class DedupConfig(Settings):
    """Removal of exact and near-duplicates, of contained documents and of shared lines."""

    minimum_jaccard: float = Field(default=0.8, gt=0, le=1)
    """Least exact Jaccard similarity with a kept document for a document to be removed."""
    minimum_containment: float | None = Field(default=None, gt=0.5, le=1)
    """Least share of a document's shingles in a kept document for it to be removed as contained, for example 0.9; left
    out: contained documents are kept. Longer documents are then preferred to shorter ones."""
    alarm_share: float = Field(default=0.5, gt=0, le=1)
    """Share of its documents above which a source's losses are reported as suspicious."""
    lines: Literal["none", "keep_first", "drop_all"] = "none"
    """Which copies of shared lines are cut, see `data_prep/dedup/lines.py`; CCNet drops all of them."""
    line_scope: Literal["corpus", "site"] = "corpus"
    """Where lines are compared: in the whole corpus, or within one web site (or one source, for documents without a web
    address), which finds the site's templates."""
    line_documents: int = Field(default=2, ge=2)
    """Number of documents that must share a line: 2 as in CCNet, or 10 for templates only, as in ROOTS."""
    sentences: Literal["none", "keep_first", "drop_all"] = "none"
    """Which occurrences of spans of sentences are cut that occur more than once, see `data_prep/dedup/spans.py`; C4
    keeps one."""
    sentence_span: int = Field(default=3, ge=1)
    """Number of sentences of a span: C4's three (Raffel et al. 2020, JMLR 21, section 2.2)."""
    similar_sentences: float | None = Field(default=None, gt=0.5, le=1)
    """Least exact Jaccard similarity of the pairs of tokens of two sentences for the later one to be cut, for example
    0.8, see `data_prep/dedup/similar_sentences.py`; left out: similar sentences are kept."""
    substrings: Literal["none", "keep_first", "drop_all"] = "none"
    """Which occurrences of exact substrings are cut that occur more than once; Lee et al. keep one."""
    substring_tokens: int = Field(default=50, ge=10)
    """Least number of tokens of a substring: 50 (Lee et al. 2022, arXiv:2107.06499, section 4.1). A token is a word, a
    letter of a script without spaces, or another character."""
    memory_bytes: int = Field(default=1_000_000_000, ge=1_000_000)
    """Memory for hashes, bands, shingles, lines and spans; less memory costs only time."""

    @model_validator(mode="after")
    def _has_lines(self) -> DedupConfig:
        if self.lines == "none" and self.line_scope != "corpus":
            raise ValueError(f"line_scope {self.line_scope!r} has no effect while lines is 'none'")
        for name, length in (("sentences", "sentence_span"), ("substrings", "substring_tokens")):
            value = getattr(self, length)
            if getattr(self, name) == "none" and value != type(self).model_fields[length].default:
                raise ValueError(f"{length} {value} has no effect while {name} is 'none'")
        return self


class TokenizerConfig(Settings):
    """Training of a tokenizer, or an existing one."""

    path: LocalPath | None = None
    """Folder with a tokenizer to use as it is, such as that of a model whose training continues: `tokenizer.json` or
    `tokenizer.model`, and `tokenizer_config.json`. Left out: a tokenizer is trained."""
    model_vocabulary_size: int | None = Field(default=None, gt=0)
    """Vocabulary entries of the model that the tokenizer in `path` belongs to, if it has more: BLOOM has 250,880 for
    250,680 tokens."""
    kind: TokenizerKind = "byte_level_bpe"
    """Byte-level BPE as BLOOM's (Le Scao et al. 2022, arXiv:2211.05100, section 3.2), or SentencePiece BPE as LLaMA's
    and Baichuan's (Touvron et al. 2023, arXiv:2302.13971, section 2.1)."""
    character_coverage: float = Field(default=0.99995, gt=0.9, le=1)
    """Share of the sample's characters that get an entry of their own, of kind `sentencepiece_bpe`; others are spelled
    by their bytes. The default is that of LLaMA's `tokenizer.model`. In scripts of many characters the rest of these
    would take up a small vocabulary: SentencePiece's README advises 0.9995 for Chinese and Japanese."""
    vocabulary_size: int = Field(default=16384, ge=512)
    """Number of entries, reserved ones included; need not be round, because the model pads its embedding."""
    reserved_entries: int | None = Field(default=None, ge=0)
    """Number of entries reserved for later use; left out: 200 as in BLOOM, or none as in LLaMA."""
    sample_bytes: int = Field(default=50_000_000, gt=0)
    """Bytes of kept text that merges are learnt from, sampled by the weights of the sources."""
    language_exponent: float = Field(default=1.0, ge=0, le=1)
    """Exponent of languages within a source: one with a share p of the text is sampled in proportion to p to this
    power. 1 keeps the shares, less favours small languages (Conneau and Lample 2019, arXiv:1901.07291, section 3.1,
    take 0.5)."""
    language_weights: Annotated[dict[str, float], AfterValidator(_by_name)] = Field(default_factory=dict)
    """Factor by language to its proportion within each source; 1 for languages that are not named."""
    monolingual_vocabulary_size: int | None = Field(default=None, ge=512)
    """Vocabulary of the monolingual tokenizers that the report compares with; left out: a quarter of `vocabulary_size`,
    since one language needs fewer entries than all of them."""

    @property
    def reserved(self) -> int:
        if self.reserved_entries is not None:
            return self.reserved_entries
        return 200 if self.kind == "byte_level_bpe" else 0

    @model_validator(mode="after")
    def _learns_or_takes(self) -> TokenizerConfig:
        learning = self.model_fields_set - {"path", "model_vocabulary_size", "monolingual_vocabulary_size"}
        if self.path is not None and learning:
            raise ValueError(
                f"{min(learning)} has no effect: path {str(self.path)!r} names a tokenizer, and none is trained"
            )
        if self.path is None and self.model_vocabulary_size is not None:
            raise ValueError(
                "model_vocabulary_size has no effect without path: a model has as many entries as the tokenizer that "
                "is trained; set vocabulary_size"
            )
        return self

    @model_validator(mode="after")
    def _coverage_has_an_effect(self) -> TokenizerConfig:
        usual = type(self).model_fields["character_coverage"].default
        if self.kind != "sentencepiece_bpe" and self.character_coverage != usual:
            raise ValueError(f"character_coverage: has no effect: kind is {self.kind!r}, not 'sentencepiece_bpe'")
        return self

    @model_validator(mode="after")
    def _weights_are_positive(self) -> TokenizerConfig:
        for language, weight in self.language_weights.items():
            if not weight > 0:
                raise ValueError(f"language_weights: {language} has {weight}; a factor must be positive")
        return self


class TokensConfig(Settings):
    """Token files."""

    heldout_share: float = Field(default=0.02, ge=0, lt=1)
    """Share of each source's kept documents, chosen by a hash of the id, that is never trained on."""
    template: str | None = Field(default=None, min_length=1)
    """Chat template of conversations: the name of one in `configs/templates`, or the path of a `.yaml` file."""
    learn: Learnt = "all_assistant"
    """What the loss counts of a conversation: what the template marks as learnt in every answer or in the last one, or
    everything."""
    pack: int | None = Field(default=None, ge=2)
    """Tokens of a pack: conversations are put together, whole, so that they fill packs, which training takes as its
    samples (`data.sequence_length` must be the same). Left out: conversations follow one another, and samples cut
    them anywhere."""
    long_round: Literal["drop", "cut_question"] = "drop"
    """What is done with a question and its answer that together are longer than a pack: they are dropped, or the
    question is cut from the left. Longer conversations are split between rounds in any case."""


class DataConfig(Settings):
    """A run of data preparation."""

    output: LocalPath
    """Folder of the run, for everything that is written."""
    seed: int = 1234
    """Seed of every choice: of files, of held-out documents, of the order of documents."""
    workers: int = Field(default=2, ge=1)
    """Number of worker processes."""
    executor: Literal["local", "ray"] = "local"
    """Where workers run: on this machine, or on the Ray cluster that the variable RAY_ADDRESS names. For Slurm, see
    `slurm/data_prep.sbatch`. Outputs are the same in all cases."""
    shard_bytes: int = Field(default=16_000_000, gt=0)
    """Raw bytes of a shard, the unit of work and of resuming."""
    maximum_document_bytes: int = Field(default=20_000_000, gt=0)
    """Size above which a document is set aside and reported."""
    sources: tuple[SourceConfig, ...] = Field(min_length=1)
    """Sources of raw text, see below."""
    language: LanguageConfig = LanguageConfig()
    quality: QualityConfig = QualityConfig()
    scores: dict[Annotated[str, Field(pattern=NAME)], ScoreConfig] = Field(default_factory=dict)
    """Scores of the documents by name, see below; rule sets `scores` and `sampled` use them."""
    sampling: dict[Annotated[str, Field(pattern=NAME)], SamplingConfig] = Field(default_factory=dict)
    """Shares by name, see below: a score as a weight."""
    perplexity: Annotated[dict[str, LanguageModelConfig], AfterValidator(_by_name)] = Field(default_factory=dict)
    """Models by language; empty: perplexity is not measured. Documents of other languages have no perplexity."""
    urls: UrlConfig = UrlConfig()
    bad_words: Annotated[dict[str, LocalPath], AfterValidator(_by_name)] = Field(default_factory=dict)
    """Lists of words that make a page unwanted, by language: files with a word or phrase per line, as LDNOOBW's. The
    rule set `bad_words` drops documents that have one; `bad_word_matches` among the signals names them."""
    decontamination: dict[str, EvaluationSetConfig] = Field(default_factory=dict)
    """Evaluation sets by name. Where there are any, each document is searched for their items (`evaluation_matches` and
    three measures among the signals); the rule sets `decontamination_gpt3`, `decontamination_palm` and
    `decontamination_llama2` drop documents by them."""
    withdrawn: LocalPath | None = None
    """List of documents that are left out of the token files, JSON lines with an `id`; `altiplano data remove` writes
    it. Unlike documents that rules drop, they still count as the originals of their copies."""
    fingerprints: FingerprintConfig = FingerprintConfig()
    dedup: DedupConfig = DedupConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    tokens: TokensConfig = TokensConfig()

    @model_validator(mode="after")
    def _rule_sets_have_their_models(self) -> DataConfig:
        for place, source in enumerate(self.sources):
            try:
                rules_named(self, source.rules)
            except ValueError as error:
                raise ValueError(f"sources.{place}.rules: {error}") from None
        return self

    @model_validator(mode="after")
    def _pages_are_counted_by_a_source(self) -> DataConfig:
        if self.urls.pages_per_domain is not None and not any("urls" in source.rules for source in self.sources):
            raise ValueError("urls.pages_per_domain: has no effect: no source has the rule set `urls`")
        return self

    @model_validator(mode="after")
    def _conversations_have_a_template(self) -> DataConfig:
        named = [source.name for source in self.sources if source.is_conversations]
        if named and self.tokens.template is None:
            raise ValueError(
                f"tokens.template: missing; source {named[0]} has conversations, and a template decides how their "
                "turns become tokens: name one of configs/templates, such as alpaca or vicuna-1.1"
            )
        fields = TokensConfig.model_fields
        for name in ("template", "learn", "pack", "long_round"):
            if not named and getattr(self.tokens, name) != fields[name].default:
                raise ValueError(f"tokens.{name}: has no effect: no source is of kind conversations")
        if self.tokens.pack is None and self.tokens.long_round != fields["long_round"].default:
            raise ValueError("tokens.long_round: has no effect without tokens.pack")
        return self

    @model_validator(mode="after")
    def _sources_are_in_the_order_of_their_arrival(self) -> DataConfig:
        arrived = 0
        for place, source in enumerate(self.sources):
            if source.arrival < arrived:
                raise ValueError(
                    f"sources.{place}.arrival: {source.arrival} after {arrived}; sources are listed in the order of "
                    "their arrival, because the first of two copies stays"
                )
            arrived = source.arrival
        if self.sources[0].arrival:
            raise ValueError(f"sources.0.arrival: {self.sources[0].arrival}; the first arrival is 0")
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> DataConfig:
        names = [source.name for source in self.sources]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"sources: the name {name!r} is given twice; each source needs its own")
        return self
