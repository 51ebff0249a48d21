"""fastText's prediction in compiled code over UTF-8 bytes, ten times as fast as the library and without the GIL.

A text is its words (parts between ASCII white space, or zero bytes) with the n-grams of characters of `<word>`, and the
end-of-line token; each has at most one row of the input matrix; their mean is multiplied by the output matrix.
Hierarchical softmax walks the Huffman tree of the labels. All sums are in fp32, in another order than the library's, so
probabilities agree up to rounding. One difference is intended: in the library, `</s>` inside a text, which is an HTML
tag, ends the text.

Source: Joulin et al. 2017, arXiv:1607.01759; fastText 0.9.2, dictionary.cc, loss.cc.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data_prep.kernels.kernel import Bytes, Hashes, Places, Shares, inlined, kernel, part, read_only, scratch_size
from data_prep.signals.fasttext.file import HIERARCHICAL_SOFTMAX, SOFTMAX, SUPERVISED, FastTextFile

_BASIS, _PRIME, _LOW = np.uint64(2166136261), np.uint64(16777619), np.uint64(0xFFFFFFFF)
_SIGN = np.uint64(0xFFFFFF00)
_WIDE_BASIS, _WIDE_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x00000100000001B3)
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_END_OF_LINE = b"</s>"
LABEL = "__label__"
_LABEL = np.frombuffer(LABEL.encode(), dtype=np.uint8)
_SPACES = np.isin(np.arange(256), np.frombuffer(b" \n\r\t\v\f\0", dtype=np.uint8))


def _word_key(word: bytes) -> int:
    value = int(_WIDE_BASIS)
    for byte in word:
        value = ((value ^ byte) * int(_WIDE_PRIME)) & 0xFFFFFFFFFFFFFFFF
    return value | 1


def _huffman(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Children of each inner node, `int64[labels - 1, 2]`, as fastText's `buildTree` joins them; leaves are labels."""
    labels = len(counts)
    weights = np.full(2 * labels - 1, 10**15, dtype=np.int64)
    weights[:labels] = counts
    children = np.empty((labels - 1, 2), dtype=np.int64)
    leaf, node = labels - 1, labels
    for inner in range(labels, 2 * labels - 1):
        for side in (0, 1):
            if leaf >= 0 and weights[leaf] < weights[node]:
                children[inner - labels, side] = leaf
                leaf -= 1
            else:
                children[inner - labels, side] = node
                node += 1
        weights[inner] = weights[children[inner - labels]].sum()
    return children


class Model(NamedTuple):
    """Model in the form that kernels read."""

    keys: Hashes
    rows: npt.NDArray[np.int32]
    """Hash table of words: key, and row of `inputs`, or -2 for a label; a free slot has key 0."""
    shortest_gram: int
    longest_gram: int
    buckets: int
    word_count: int
    has_row: Bytes
    row_of: npt.NDArray[np.int32]
    """By bucket, a bit for whether it has a row, and the row; both empty if every bucket has its own."""
    inputs: npt.NDArray[np.float32]
    outputs: npt.NDArray[np.float32]
    children: Places
    """Children of the inner nodes of the tree of labels, see `_huffman`; empty without a tree."""
    end_row: int
    """Row of the end-of-line token, or -1."""


@inlined
def _row_of_word(key: np.uint64, keys: Hashes, rows: npt.NDArray[np.int32]) -> np.int64:
    mask = np.int64(keys.shape[0] - 1)
    slot = np.int64((key * _MULTIPLIER) >> np.uint64(40)) & mask
    while keys[slot] != key:
        if keys[slot] == np.uint64(0):
            return np.int64(-1)
        slot = (slot + 1) & mask
    return np.int64(rows[slot])


@inlined
def _hashed(value: np.uint64, byte: np.uint8) -> np.uint64:
    """Do a step of 32-bit FNV-1a; like the library, sign-extend bytes."""
    extended = np.uint64(byte) | (_SIGN if byte >= 0x80 else np.uint64(0))
    return ((value ^ extended) * _PRIME) & _LOW


@inlined
def _add(hidden: npt.NDArray[np.float32], inputs: npt.NDArray[np.float32], row: int | np.int64) -> None:
    for k in range(hidden.shape[0]):
        hidden[k] += inputs[row, k]


@inlined
def _add_grams(word: Bytes, size: int, model: Model, hidden: npt.NDArray[np.float32]) -> int:
    """Add the rows of the n-grams of word[:size], which includes < and >; return their number."""
    shortest, longest, buckets = model.shortest_gram, model.longest_gram, np.uint64(model.buckets)
    word_count, has_row, row_of, inputs = model.word_count, model.has_row, model.row_of, model.inputs
    added = 0
    for i in range(size):
        if (word[i] & 0xC0) == 0x80:
            continue
        value = _BASIS
        j = i
        n = 1
        while j < size and n <= longest:
            value = _hashed(value, word[j])
            j += 1
            while j < size and (word[j] & 0xC0) == 0x80:
                value = _hashed(value, word[j])
                j += 1
            if n >= shortest and not (n == 1 and (i == 0 or j == size)):
                bucket = np.int64(value % buckets)
                if has_row.shape[0] == 0:
                    _add(hidden, inputs, word_count + bucket)
                    added += 1
                elif has_row[bucket >> 3] & (1 << (bucket & 7)):
                    _add(hidden, inputs, word_count + row_of[bucket])
                    added += 1
            n += 1
    return added


def _sample_bytes(characters: int, pieces: int) -> int:
    """Return the largest number of bytes that `_sample` copies.

    A short text is copied if it has no more than 4 bytes for each character, else each of the pieces has characters //
    pieces characters and no more than 4 bytes for each, and a blank before all but the first. That holds for any bytes,
    wherever the pieces begin and however much they overlap. The size of the text is no bound: pieces are counted in
    characters and begin at equal distances in bytes, so they overlap where characters are longer.
    """
    return 4 * characters + pieces


@kernel
def _sample(data: Bytes, begin: int, end: int, characters: int, pieces: int, sampled: Bytes) -> int:
    """Copy the sample of a text: all of a short one, else pieces from its beginning to its end; return its size in
    bytes."""
    i, seen = begin, 0
    while i < end and seen <= characters:
        seen += (data[i] & 0xC0) != 0x80
        i += 1
    if seen <= characters and end - begin <= 4 * characters:
        for k in range(end - begin):
            sampled[k] = data[begin + k]
        return end - begin
    length = characters // pieces
    last = end
    seen = 0
    while seen < length and last > begin and end - last < 4 * length:
        last -= 1
        seen += (data[last] & 0xC0) != 0x80
    size = 0
    for k in range(pieces):
        i = begin + (last - begin) * k // max(pieces - 1, 1)
        while i < end and (data[i] & 0xC0) == 0x80:
            i += 1
        if k:
            sampled[size] = 0x20
            size += 1
        seen = 0
        stop = min(i + 4 * length, end)
        while i < stop:
            seen += (data[i] & 0xC0) != 0x80
            if seen > length:
                break
            sampled[size] = data[i]
            size += 1
            i += 1
    return size


@inlined
def _dot(outputs: npt.NDArray[np.float32], row: int, hidden: npt.NDArray[np.float32]) -> np.float32:
    total = np.float32(0)
    for k in range(hidden.shape[0]):
        total += outputs[row, k] * hidden[k]
    return total


@part
def _best_by_softmax(outputs: npt.NDArray[np.float32], hidden: npt.NDArray[np.float32]) -> tuple[np.int64, float]:
    """Return the most probable label and its probability."""
    best, highest, total = np.int64(0), np.float64(-1e30), 0.0
    for label in range(outputs.shape[0]):
        highest = max(highest, np.float64(_dot(outputs, label, hidden)))
    for label in range(outputs.shape[0]):
        value = np.exp(np.float64(_dot(outputs, label, hidden)) - highest)
        total += value
        if value == 1.0:
            best = np.int64(label)
    return best, 1.0 / total


@part
def _best_of_tree(
    outputs: npt.NDArray[np.float32],
    children: Places,
    hidden: npt.NDArray[np.float32],
    nodes: Places,
    scores: Shares,
) -> tuple[np.int64, float]:
    """Find the most probable label and its probability by depth-first search, skipping branches less probable than the
    best leaf.

    `nodes` and `scores` are scratch for nodes to be visited, at most one more than inner nodes.
    """
    labels = children.shape[0] + 1
    best, best_score = np.int64(-1), np.float64(-1e30)
    nodes[0], scores[0], depth = 2 * labels - 2, 0.0, 1
    while depth:
        depth -= 1
        node, score = nodes[depth], scores[depth]
        if score < best_score:
            continue
        if node < labels:
            best, best_score = node, score
            continue
        inner = node - labels
        right = 1.0 / (1.0 + np.exp(-np.float64(_dot(outputs, inner, hidden))))
        first, first_score = children[inner, 0], score + np.log(1.0 - right + 1e-5)
        second, second_score = children[inner, 1], score + np.log(right + 1e-5)
        if first_score > second_score:  # the likelier one is visited first
            first, first_score, second, second_score = second, second_score, first, first_score
        nodes[depth], scores[depth] = first, first_score
        nodes[depth + 1], scores[depth + 1] = second, second_score
        depth += 2
    return best, np.exp(best_score)


@inlined
def _add_words(sampled: Bytes, size: int, model: Model, word: Bytes, hidden: npt.NDArray[np.float32]) -> int:
    """Add the rows of the words of sampled[:size] and of their n-grams; return their number. `word` is scratch."""
    keys, rows, inputs, has_grams = model.keys, model.rows, model.inputs, model.longest_gram > 0
    word[0] = 0x3C
    added, i = 0, 0
    while i < size:
        if _SPACES[sampled[i]]:
            i += 1
            continue
        length = 1
        key = _WIDE_BASIS
        while i < size and not _SPACES[sampled[i]]:
            word[length] = sampled[i]
            key = (key ^ np.uint64(sampled[i])) * _WIDE_PRIME
            length += 1
            i += 1
        row = _row_of_word(key | np.uint64(1), keys, rows)
        if row == -2 or (row < 0 and length > 9 and _is_label(word)):
            continue
        if row >= 0:
            _add(hidden, inputs, row)
            added += 1
        if has_grams:
            word[length] = 0x3E
            added += _add_grams(word, length + 1, model, hidden)
    return added


@kernel
def _predict(
    data: Bytes,
    offsets: Places,
    characters: int,
    pieces: int,
    model: Model,
    is_tree: bool,
    room: int,
    labels: Places,
    probabilities: Shares,
) -> None:
    """Fill labels and probabilities.

    Args:
        room: bytes of a sample, with < and > around a word. is_tree: whether the loss is hierarchical.
    """
    # Allocated here, so that LLVM knows that they do not overlap other arrays.
    sampled, word = np.empty(room, np.uint8), np.empty(room, np.uint8)
    hidden = np.empty(model.inputs.shape[1], np.float32)
    nodes = np.empty(2 * model.children.shape[0] + 2, np.int64)
    scores = np.empty(nodes.shape[0], np.float64)
    for d in range(labels.shape[0]):
        size = _sample(data, offsets[d], offsets[d + 1], characters, pieces, sampled)
        for k in range(hidden.shape[0]):
            hidden[k] = np.float32(0)
        added = _add_words(sampled, size, model, word, hidden)
        if model.end_row >= 0:
            _add(hidden, model.inputs, model.end_row)
            added += 1
        if added == 0:
            labels[d], probabilities[d] = -1, 0.0
            continue
        for k in range(hidden.shape[0]):
            hidden[k] /= np.float32(added)
        if is_tree:
            label, probability = _best_of_tree(model.outputs, model.children, hidden, nodes, scores)
        else:
            label, probability = _best_by_softmax(model.outputs, hidden)
        labels[d], probabilities[d] = label, min(probability, 1.0)


@inlined
def _is_label(word: Bytes) -> bool:
    is_label = True
    for k in range(_LABEL.shape[0]):
        is_label &= word[1 + k] == _LABEL[k]
    return is_label


def is_supported(file: FastTextFile) -> bool:
    """Return whether a model is supported: supervised, with (hierarchical) softmax and without n-grams of words."""
    return file.model == SUPERVISED and file.word_grams == 1 and file.loss in (HIERARCHICAL_SOFTMAX, SOFTMAX)


def sample_text(text: bytes, characters: int, pieces: int) -> bytes:
    """Return the sample of a UTF-8 text, see `FastTextKernel.predict`."""
    sampled = np.empty(scratch_size(_sample_bytes(characters, pieces)), np.uint8)
    size = _sample(read_only(np.frombuffer(text, dtype=np.uint8)), 0, len(text), characters, pieces, sampled)
    return sampled[:size].tobytes()


class FastTextKernel:
    """Supported model, ready to predict."""

    def __init__(self, file: FastTextFile) -> None:
        is_tree = file.loss == HIERARCHICAL_SOFTMAX
        size = 1 << (4 * len(file.words) + 4).bit_length()
        keys, rows = np.zeros(size, dtype=np.uint64), np.full(size, -1, dtype=np.int32)
        entries = [*((word, row) for row, word in enumerate(file.words)), *((label, -2) for label in file.labels)]
        for word, row in entries:
            if word == _END_OF_LINE:
                continue
            key = _word_key(word)
            slot = ((key * int(_MULTIPLIER)) & 0xFFFFFFFFFFFFFFFF) >> 40 & (size - 1)
            while keys[slot]:
                slot = (slot + 1) & (size - 1)
            keys[slot], rows[slot] = key, row
        has_row, row_of = np.zeros(0, dtype=np.uint8), np.zeros(0, dtype=np.int32)
        if file.pruned is not None:
            has_row = np.zeros(file.buckets // 8 + 1, dtype=np.uint8)
            row_of = np.zeros(file.buckets + 1, dtype=np.int32)
            row_of[file.pruned[:, 0]] = file.pruned[:, 1]
            np.bitwise_or.at(has_row, file.pruned[:, 0] >> 3, np.uint8(1) << (file.pruned[:, 0] & 7).astype(np.uint8))
        children = _huffman(file.label_counts) if is_tree else np.empty((0, 2), dtype=np.int64)
        self.labels = tuple(label.decode().removeprefix(LABEL) for label in file.labels)
        self._is_tree = is_tree
        self._model = Model(
            keys=read_only(keys),
            rows=read_only(rows),
            shortest_gram=file.shortest_gram,
            longest_gram=file.longest_gram,
            buckets=max(file.buckets, 1),
            word_count=len(file.words),
            has_row=read_only(has_row),
            row_of=read_only(row_of),
            inputs=read_only(np.ascontiguousarray(file.inputs)),
            outputs=read_only(np.ascontiguousarray(file.outputs)),
            children=read_only(children),
            end_row=file.words.index(_END_OF_LINE) if _END_OF_LINE in file.words else -1,
        )

    def predict(
        self, data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64], characters: int, pieces: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Return the label of each document, as an index into `labels`, and its probability; -1 and 0 if nothing is
        known.

        Args:
            data, offsets: document d is UTF-8 bytes [offsets[d], offsets[d + 1]).
            characters, pieces: number of characters that are read of a longer text, in pieces from its beginning to its
                end.
        """
        labels = np.empty(len(offsets) - 1, dtype=np.int64)
        probabilities = np.empty(len(offsets) - 1, dtype=np.float64)
        _predict(
            read_only(data),
            read_only(offsets),
            characters,
            pieces,
            self._model,
            self._is_tree,
            scratch_size(_sample_bytes(characters, pieces)),
            labels,
            probabilities,
        )
        return labels, probabilities
