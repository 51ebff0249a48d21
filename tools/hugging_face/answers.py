"""Answers of a model that was trained on conversations: transformers generates, the prompt is that of training.

The prompt is encoded as the trainer's samples were, part by part and with control tokens by id (see
`data_prep/conversations/rendering.py`). So its tokens are those that stood before the answers in training, and what a
user types never becomes a control token.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from data_prep.conversations.encoding import ChatSettings, ConversationEncoder, end_tokens
from data_prep.conversations.templates import load_template
from data_prep.conversations.turns import Turn
from data_prep.tokenizer.encoding.encode import ReferenceEncoder
from data_prep.tokenizer.encoding.token_bytes import TokenBytes
from foundation.terminal import visible
from pretrain.checkpoint.read import CheckpointReader
from pretrain.data.mixture import load_mixture
from pretrain.families.registry import format_of_type
from tools.hugging_face.to_hf import CHAT_TEMPLATE_FILE, export_command
from tools.hugging_face.writing import WholeCharacters

CONFIG_FILE = "config.json"
TEMPLATE_FILE = Path(CHAT_TEMPLATE_FILE).with_suffix(".yaml").name
"""The template of conversations in our own form, beside a `mixture.yaml`."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: the logits are divided by it; 0 takes the most likely token.
        top_p: only the most likely tokens that together have this probability are drawn from.
        maximum_tokens: most tokens of an answer.
    """

    temperature: float = 0.7
    top_p: float = 0.95
    maximum_tokens: int = 512

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise ValueError(f"temperature {self.temperature}: must be 0 (the most likely token) or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p {self.top_p}: must be above 0 and at most 1")
        if self.maximum_tokens < 1:
            raise ValueError(f"maximum_tokens {self.maximum_tokens}: must be at least 1")

    def settings(self) -> dict[str, Any]:
        """Arguments of transformers' `generate`. Other ways to choose tokens are off, whatever the export says."""
        if self.temperature == 0:
            return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        return {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p, "top_k": 0}


class AnsweringModel:
    """An exported model, its tokenizer and its template.

    Args:
        folder: of the export.
        template: name of a template, or the path of one.

    Raises:
        ValueError: the export or the template cannot be used, or the tokenizer lacks a control token of the template.
    """

    def __init__(self, folder: Path, template: str) -> None:
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()
        self.context = context_length(folder)
        reference = ReferenceEncoder(folder)
        settings = ChatSettings(template, load_template(template))
        texts = TokenBytes.of(reference)
        self._encoder = ConversationEncoder(settings, reference, reference, texts)
        self._ends = end_tokens(settings.template, template, reference)
        self._texts = texts.texts
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval().to(device)

    def prompt(self, turns: Sequence[Turn]) -> list[int]:
        """Tokens before the answer to the last of these turns.

        Raises:
            UnrenderableError: the template has no place for a system turn, or a turn is empty.
        """
        segments = self._encoder.renderer.segments(turns, for_generation=True)
        tokens: list[int] = self._encoder.encode_segments([segments], ["the conversation"]).tokens.tolist()
        return tokens

    def answer(
        self,
        turns: Sequence[Turn],
        sampling: Sampling,
        seed: int,
        show: Callable[[str], object] | None = None,
    ) -> str:
        """Answer the last of these turns; the same for the same seed.

        Args:
            show: is given the answer piece by piece as it is generated.

        Returns:
            The answer without the token that ends it, and without white space around it.

        Raises:
            ValueError: the turns leave no room for an answer in the model's context.
        """
        from transformers import LogitsProcessorList, set_seed

        prompt = self.prompt(turns)
        room = self.context - len(prompt)
        if room < 1:
            raise ValueError(
                f"the conversation has {len(prompt)} tokens, and the model reads {self.context} at a time, answer "
                "included: ask a shorter question"
            )
        tokens = torch.tensor([prompt], device=self._model.device)
        set_seed(seed)
        with torch.no_grad():
            out = self._model.generate(
                input_ids=tokens,
                attention_mask=torch.ones_like(tokens),
                max_new_tokens=min(sampling.maximum_tokens, room),
                eos_token_id=self._ends,
                pad_token_id=self._ends[0],
                logits_processor=LogitsProcessorList([WholeCharacters(self._texts, self._ends, len(prompt))]),
                streamer=_Shown(self._text, show) if show else None,
                **sampling.settings(),
            )
        return self._text(out[0, len(prompt) :].tolist())

    def _text(self, tokens: Sequence[int]) -> str:
        """Text of an answer: whole characters, without control tokens and without white space around it."""
        text = b"".join(self._texts[token] or b"" for token in tokens)
        return visible(text.decode(errors="ignore")).strip()  # the limit of tokens may cut the last character


class _Shown:
    """Streamer of transformers' `generate` for one sequence: shows text as soon as its characters are whole."""

    def __init__(self, text: Callable[[Sequence[int]], str], show: Callable[[str], object]) -> None:
        self._text, self._show = text, show
        self._tokens: list[int] | None = None  # of the answer; None before the prompt has been passed
        self._done = 0

    def put(self, tokens: torch.Tensor) -> None:
        if self._tokens is None:
            self._tokens = []
            return
        self._tokens += tokens.flatten().tolist()
        text = self._text(self._tokens)
        self._show(text[self._done :])
        self._done = len(text)

    def end(self) -> None:
        """Nothing is held back."""


def context_length(folder: Path) -> int:
    """Largest number of tokens that an exported model reads at a time.

    Raises:
        ValueError: there is no export of a known family.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise ValueError(f"{path}: no such file; `altiplano convert to-hf` writes the folder")
    config = json.loads(path.read_text(encoding="utf-8"))
    context: int = format_of_type(config["model_type"]).model_settings(config)["maximum_positions"]
    return context


def open_checkpoint(path: Path, scratch: Path, template: str | None = None, base: Path | None = None) -> AnsweringModel:
    """Open a checkpoint: it is exported into `scratch`, adapters merged, so that what answers is what an export is.

    Args:
        path: a `step-…` folder, a run's `checkpoints`, or an export.
        template: name or path of a template; None: the one that the run's token files were written by.
        base: checkpoint with the frozen weights, where that has moved.

    Raises:
        ValueError: it cannot be used: damaged, without a template, of a family that transformers does not have, or of
            an objective that transformers does not compute.
    """
    if (path / CONFIG_FILE).is_file():
        if template is None:
            raise ValueError(f"{path}: an export does not name its template in our form: give it with --template")
        if base is not None:
            raise ValueError(f"--base {base}: has no effect: {path} is an export, which has all weights")
        return AnsweringModel(path, template)
    reader = CheckpointReader(path)
    objective = reader.config.get("objective", {}).get("kind", "causal")
    if objective != "causal":
        raise ValueError(
            f"{reader.path}: trained with objective.kind {objective}, where a question attends to itself in both "
            "directions; transformers generates with causal attention only, and its answers would be those of another "
            "model"
        )
    template = template or _template_of(reader)
    folder = scratch / "hf"
    export_command(path, folder, None, "bfloat16" if torch.cuda.is_available() else "float32", "own", base)
    return AnsweringModel(folder, template)


def _template_of(reader: CheckpointReader) -> str:
    """Path of the template beside the mixture that a run was trained on."""
    mixture = reader.config.get("data", {}).get("mixture")
    if mixture is None:
        raise ValueError(f"{reader.path}: not trained on conversations of ours: name its template with --template")
    path = load_mixture(Path(mixture)).path.parent / TEMPLATE_FILE
    if not path.is_file():
        jinja = path.with_suffix(Path(CHAT_TEMPLATE_FILE).suffix)
        hint = (
            "its token files were written by an earlier version: run `altiplano data tokenize` again"
            if jinja.is_file()
            else "its token files have no conversations"
        )
        raise ValueError(f"{path}: no such file: {hint}, or name a template with --template")
    return str(path)
