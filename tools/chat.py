"""Talk with a model in the terminal: `altiplano chat FOLDER`.

FOLDER is a checkpoint of a run on conversations, with adapters or without, or an export. A question is written by the
template of the training, with what was said before; the answer is shown as it is generated and ends where the model
ends it. `/reset` forgets what was said, `/exit` or Ctrl-D leaves, Ctrl-C stops an answer. When standard input is not a
terminal, all of it is one question, and nothing but the answer is printed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path

from data_prep.conversations.templates import shipped_templates
from data_prep.conversations.turns import ASSISTANT, SYSTEM, USER, Turn
from tools.hugging_face.answers import AnsweringModel, Sampling, open_checkpoint

PROMPT = "> "
RESET, EXIT = "/reset", "/exit"

EXAMPLES = """examples:
  altiplano chat runs/chat/train/checkpoints
      the newest checkpoint, with the template of its token files
  altiplano chat runs/alpaca-lora-7b/train/checkpoints --temperature 0
      adapters, merged; always the most likely token
  echo "What is 7 plus 8?" | altiplano chat runs/chat/train/checkpoints
      one question, and nothing but the answer
  altiplano chat runs/vicuna-7b/hf --template vicuna-1.1 --system "You are brief."
      an export, which opens faster than a checkpoint, because that is exported first"""


class Conversation:
    """What was said so far.

    Args:
        system: text of the system turn; None: the template's own, if it has one.
        seed: of the first answer; later ones have other seeds.
    """

    def __init__(self, model: AnsweringModel, sampling: Sampling, *, system: str | None = None, seed: int = 0) -> None:
        self._model, self._sampling, self._seed = model, sampling, seed
        self._system = () if system is None else (Turn(SYSTEM, system),)
        self._rounds: list[tuple[Turn, Turn]] = []
        self._asked = 0

    def ask(self, question: str, show: Callable[[str], object] | None = None) -> tuple[str, int]:
        """Answer a question and remember both; an answer of nothing is not remembered.

        Args:
            show: is given the answer piece by piece.

        Returns:
            The answer, and how many of the oldest rounds were forgotten to make room for it.

        Raises:
            ValueError: the question alone leaves no room for an answer.
        """
        asked = Turn(USER, question)
        forgotten = 0
        while self._rounds and not self._leaves_room(asked):
            del self._rounds[0]
            forgotten += 1
        answer = self._model.answer(self._turns(asked), self._sampling, self._seed + self._asked, show)
        self._asked += 1
        if answer:
            self._rounds.append((asked, Turn(ASSISTANT, answer)))
        return answer, forgotten

    def reset(self) -> None:
        """Forget all rounds; the system turn stays."""
        self._rounds.clear()

    def _turns(self, asked: Turn) -> list[Turn]:
        return [*self._system, *(turn for pair in self._rounds for turn in pair), asked]

    def _leaves_room(self, asked: Turn) -> bool:
        """Whether a whole answer has room, or a quarter of what the model reads, if that is less."""
        wanted = min(self._sampling.maximum_tokens, self._model.context // 4)
        return len(self._model.prompt(self._turns(asked))) + wanted <= self._model.context


def talk(conversation: Conversation) -> int:
    """Ask what is typed until the end; returns the exit code."""
    with suppress(ImportError):
        import readline  # noqa: F401  editing and history of the lines that `input` reads
    while True:
        try:
            line = input(PROMPT).strip()
        except EOFError:
            print()
            return 0
        except KeyboardInterrupt:
            print(f"\n{EXIT} leaves")
            continue
        except UnicodeDecodeError as error:
            print(f"not understood: {error}", file=sys.stderr)
            continue
        if line == EXIT:
            return 0
        if line == RESET:
            conversation.reset()
            print("forgotten")
        elif line:
            _answer(conversation, line)


def _answer(conversation: Conversation, line: str) -> None:
    try:
        answer, forgotten = conversation.ask(line, lambda text: print(text, end="", flush=True))
    except KeyboardInterrupt:
        print("\nstopped; this question is not remembered")
        return
    except ValueError as error:
        print(error, file=sys.stderr)
        return
    print("" if answer else "(the model ends its answer without a word)")
    if forgotten:
        print(f"(the oldest {forgotten} rounds were forgotten to make room)", file=sys.stderr)


def answer_input(conversation: Conversation) -> int:
    """Answer standard input as one question; returns the exit code.

    Raises:
        ValueError: it is empty, or not UTF-8.
    """
    content = sys.stdin.buffer.read()
    try:
        question = content.decode().strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"standard input: not UTF-8: {error}") from None
    if not question:
        raise ValueError("standard input: no question")
    conversation.ask(question, lambda text: print(text, end="", flush=True))
    print()
    return 0


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="altiplano chat",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = Sampling()
    parser.add_argument("folder", type=Path, help="a step-… folder, a run's checkpoints, or an export")
    parser.add_argument(
        "--template",
        help=f"{', '.join(shipped_templates())}, or the path of one; default: that of the run's token files",
    )
    parser.add_argument("--system", help="text of the system turn; default: the template's own, if it has one")
    parser.add_argument(
        "--temperature",
        type=float,
        default=default.temperature,
        help=f"how freely tokens are drawn (default {default.temperature}); 0: always the most likely one",
    )
    parser.add_argument(
        "--top-p",
        type=float,
        default=default.top_p,
        help=f"share of the probability that is drawn from, the most likely tokens first (default {default.top_p})",
    )
    parser.add_argument(
        "--maximum-tokens",
        type=int,
        default=default.maximum_tokens,
        help=f"most tokens of an answer (default {default.maximum_tokens})",
    )
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (default 0)")
    parser.add_argument(
        "--base", type=Path, help="checkpoint with the frozen weights; default: where it was in training"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0, or 2 when the model cannot be used or the question not answered."""
    command = make_parser()
    given = command.parse_args(arguments)
    if given.temperature == 0 and given.top_p != command.get_default("top_p"):
        command.error("--top-p: has no effect with --temperature 0, which always takes the most likely token")
    try:
        sampling = Sampling(given.temperature, given.top_p, given.maximum_tokens)
        # Progress goes to standard error: standard output is for answers.
        with tempfile.TemporaryDirectory(prefix="altiplano-chat-") as scratch, redirect_stdout(sys.stderr):
            model = open_checkpoint(given.folder, Path(scratch), given.template, given.base)
        conversation = Conversation(model, sampling, system=given.system, seed=given.seed)
        if not sys.stdin.isatty():
            return answer_input(conversation)
        print(f"{given.folder}: {RESET} forgets what was said, {EXIT} leaves, Ctrl-C stops an answer")
        return talk(conversation)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
