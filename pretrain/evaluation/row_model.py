"""The model as lm-eval sees it. Imports lm-eval, an optional extra, and is imported only where that is used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window


class RowModel(TemplateLM):
    """Turns requests into rows of tokens, and answers them once the rows' scores are known.

    Tokens, windows and truncation are those of lm-eval's model for transformers (`lm_eval/models/huggingface.py`), so
    that an exported model has the same scores there.

    Attributes:
        rows: pairs of tokens and number of last tokens that are scored.
        scores: of each row, log-likelihood and number of targets that are not the likeliest token.
    """

    def __init__(self, tokenizer: Any, prefix_token: int, maximum_positions: int) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self._prefix_token = prefix_token
        self._prefix_text = tokenizer.decode([prefix_token])
        self._maximum_positions = maximum_positions
        self.rows: list[tuple[list[int], int]] = []
        self.scores = np.zeros((0, 2))
        self._places: dict[int, slice] = {}  # by the identity of the request, which its task keeps

    def plan(self, requests: Sequence[Any]) -> None:
        """Add the rows of requests.

        Raises:
            ValueError: a text to score is empty, or longer than the model reads at a time.
        """
        for request in requests:
            first = len(self.rows)
            if request.request_type == "loglikelihood_rolling":
                self._add_windows(request.args[0])
            else:
                super().loglikelihood([request], disable_tqdm=True)
            self._places[id(request)] = slice(first, len(self.rows))

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        for texts, context, continuation in requests:
            if not 0 < len(continuation) <= self._maximum_positions:
                raise ValueError(
                    f"the text {texts[1]!r} has {len(continuation)} tokens; between 1 and model.maximum_positions "
                    f"{self._maximum_positions} can be scored"
                )
            self._add(context, continuation)
        return []

    def _add_windows(self, text: str) -> None:
        windows = get_rolling_token_windows(
            token_list=self.tok_encode(text),
            prefix_token=self._prefix_token,
            max_seq_len=self._maximum_positions,
            context_len=1,
        )
        for window in windows:
            self._add(*make_disjoint_window(window))

    def _add(self, context: list[int], continuation: list[int]) -> None:
        tokens = [*context, *continuation][-(self._maximum_positions + 1) :]
        self.rows.append((tokens, len(continuation)))

    @property
    def eot_token_id(self) -> int:
        return self._prefix_token

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        if add_special_tokens is None:  # a text that begins with the first token has it already
            add_special_tokens = not string.startswith(self._prefix_text)
        tokens: list[int] = self.tokenizer.encode(string, add_special_tokens=add_special_tokens)
        return tokens

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Answers of planned requests: the log-likelihood, and whether every token is the likeliest."""
        own = [self.scores[self._places[id(request)]][0] for request in requests]
        return [(float(likelihood), not unlikely) for likelihood, unlikely in own]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Answers of planned requests: the log-likelihood of each text, over its windows."""
        return [float(self.scores[self._places[id(request)], 0].sum()) for request in requests]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        raise NotImplementedError("texts are scored here, not generated")
