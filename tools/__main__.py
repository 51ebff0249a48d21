"""`altiplano`, the one command: finds the module behind a sub-command and hands it the arguments."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from foundation.version import VERSION, described, program

HELP = f"""\
usage: altiplano COMMAND …            altiplano {VERSION}: from raw text to a trained language model

see it work, on this machine's own text:
  demo                  every step below; three to six minutes on two cores
  demo --chat           a tiny model that learns to answer; five minutes
  configs list|copy     the configurations that come with Altiplano

1. text to token files:
  data crawl            pages of Common Crawl, by a list of sites, an index or a snapshot
  data plan             time, memory, disk and files of a run, before it starts
  data run|add|remove   all stages, see `data --help`; then new sources in, or documents out
  data why              one document: its text, its measurements, why it was kept or dropped
  data what-if plan|run|fit     the loss that two rule sets lead to, from small runs on both
  tokens inspect|report|extend|control      token files; how good the tokenizer is; a larger vocabulary

2. token files to a model:
  plan                  the fastest layouts that fit into a cluster; their time, GPU hours and energy
  ladder plan|run|fit|predict|check     the loss of a large run, predicted from small ones
  mixture plan|run|fit|check            weights of the sources, from small runs on random mixtures
  check                 prove that many processes compute what one computes; a minute
  train                 on this machine; deepspeed, torchrun and srun start `-m pretrain` on many
  adapt                 teach a trained model another language: vocabulary, embeddings, adapters
  status                how a run stands, as a table, from any terminal
  spikes                what spiked and what was done; try other thresholds
  batch                 the documents behind a training step
  contamination         which steps saw which items of evaluation sets
  seen                  which steps and checkpoints saw which documents

3. what became of it:
  report                one page about a run, or about two beside each other
  checkpoint inspect|reshape|extend     look inside; cut for another tensor degree; more rows
  convert to-hf|from-hf|verify|to-gguf|to-megatron|from-megatron|to-glm|from-glm    other formats; equal?
  chat                  talk with a model that was trained on conversations
  extrapolation         loss by position, on texts longer than those of the training
  evaluate              lm-eval on an exported model
  bench                 our programs timed beside their peers

  COMMAND --help        explains a command, with examples
  completion bash|zsh   a completion script, for ~/.local/share/bash-completion/completions/altiplano
  --version             version and digest of the code
"""


@dataclass(frozen=True)
class Command:
    """The program behind a sub-command.

    Args:
        module: has `main(arguments)`, which returns the exit code, and `make_parser()`.
        help: what it does, in one line.
        first: arguments that `main` is given before those of the command line.
        group: extra of `setup.py` with the libraries that it needs.
    """

    module: str
    help: str
    first: tuple[str, ...] = ()
    group: str = "train"


COMMANDS: dict[tuple[str, ...], Command] = {
    ("demo",): Command("tools.demo", "every step on this machine's own text"),
    ("configs",): Command("tools.configs", "list or copy the shipped configurations", group=""),
    ("data", "crawl"): Command("tools.crawl", "fetch pages of Common Crawl by sites, index or snapshot", group="data"),
    ("data", "perplexity-bounds"): Command(
        "tools.perplexity_bounds", "bounds of CCNet's buckets, from the measured perplexities", group="data"
    ),
    ("data", "evaluation-set"): Command(
        "tools.evaluation_set", "lm-eval's tasks as evaluation sets, for decontamination", group="eval"
    ),
    ("data", "what-if"): Command("tools.what_if.__main__", "the loss that two rule sets lead to"),
    ("data", "plan"): Command(
        "tools.data_plan", "time, memory, disk and files of a run, before it starts", group="data"
    ),
    ("data", "train-ngrams"): Command(
        "tools.train_ngrams", "train the n-gram models that perplexity is measured with", group="data"
    ),
    ("data", "train-quality"): Command(
        "tools.train_quality", "train a fastText classifier of cited pages against others", group="data"
    ),
    ("data", "train-segmenter"): Command(
        "tools.train_segmenter", "train a word segmenter for a language without spaces", group="data"
    ),
    ("data",): Command("data_prep.__main__", "raw text to Megatron token files", group="data"),
    ("tokens", "inspect"): Command("tools.inspect_tokens", "statistics and text of token files; check or convert them"),
    ("tokens", "report"): Command(
        "data_prep.__main__", "tokens per word by language, and every document decoded", ("report-tokenizer",), "data"
    ),
    ("tokens", "extend"): Command(
        "tools.extend_vocabulary", "add another tokenizer's entries; every old id stays", ("tokenizer",)
    ),
    ("tokens", "control"): Command("tools.extend_vocabulary", "add control tokens to a tokenizer", ("control",)),
    ("check",): Command("tools.check", "prove that a run's processes compute what one computes"),
    ("train",): Command("tools.train", "train on this machine"),
    ("convert", "to-hf"): Command("tools.hugging_face.to_hf", "export a checkpoint for transformers", group="convert"),
    ("convert", "from-hf"): Command(
        "tools.hugging_face.from_hf", "import a model as a checkpoint to start from", group="convert"
    ),
    ("convert", "verify"): Command(
        "tools.hugging_face.verify", "compare an export's logits with its checkpoint's", group="convert"
    ),
    ("convert", "to-gguf"): Command(
        "tools.hugging_face.to_gguf", "convert an export to GGUF, for llama.cpp", group="convert"
    ),
    ("convert", "from-megatron"): Command(
        "tools.megatron.from_megatron",
        "import a checkpoint of Megatron-LM or of a Megatron-DeepSpeed fork",
        group="convert",
    ),
    ("convert", "to-megatron"): Command(
        "tools.megatron.to_megatron", "export a checkpoint as Megatron-LM reads it", group="convert"
    ),
    ("convert", "from-glm"): Command(
        "tools.from_glm", "import a checkpoint of GLM's authors, in files by tensor rank", group="convert"
    ),
    ("convert", "to-glm"): Command("tools.to_glm", "export a GLM as its authors' programs read it", group="convert"),
    ("checkpoint", "inspect"): Command("tools.inspect_checkpoint", "what a checkpoint contains; is it whole?"),
    ("checkpoint", "reshape"): Command("tools.reshape", "cut a checkpoint for another tensor degree"),
    ("checkpoint", "extend"): Command(
        "tools.extend_vocabulary", "give a model rows for a larger vocabulary", ("checkpoint",)
    ),
    ("batch",): Command("tools.inspect_batch", "the documents behind a training step"),
    ("contamination",): Command("tools.contamination", "which steps saw which items of evaluation sets"),
    ("seen",): Command("tools.seen", "which steps and checkpoints saw which documents"),
    ("plan",): Command("tools.plan.__main__", "the fastest layouts that fit, with time and cost"),
    ("ladder",): Command("tools.ladder.__main__", "predict the loss of a run from small ones"),
    ("mixture",): Command("tools.mixture.__main__", "weights of the sources from small runs"),
    ("adapt",): Command("tools.adapt", "teach a trained model another language", group="convert"),
    ("status",): Command("tools.status", "how a run stands"),
    ("report",): Command("tools.report.__main__", "one page about a run, or about two"),
    ("spikes",): Command("tools.spikes", "loss spikes of a run; try other thresholds"),
    ("extrapolation",): Command("tools.extrapolation", "loss on texts longer than a model was trained on"),
    ("chat",): Command("tools.chat", "talk with a model in the terminal", group="convert"),
    ("evaluate",): Command("tools.evaluate", "lm-eval on an exported model", group="eval"),
    ("bench",): Command("tools.bench.__main__", "our programs beside their peers", group="bench"),
    ("completion",): Command("tools.completion", "print a completion script for a shell", group=""),
}
"""Words of the command line -> what they run; a longer match wins."""


def find(words: Sequence[str]) -> tuple[tuple[str, ...], Command] | None:
    """The command that the first words name, and those words; None when there is none."""
    for length in (2, 1):
        name = tuple(words[:length])
        if len(name) == length and name in COMMANDS:
            return name, COMMANDS[name]
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0 if words else 2
    if words[0] == "--version":
        print(f"altiplano {described(program())}")
        return 0
    found = find(words)
    if found is None:
        return _unknown(words)
    name, command = found
    rest = words[len(name) :]
    try:
        return int(importlib.import_module(command.module).main([*command.first, *rest]))
    except BrokenPipeError:  # `altiplano … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except ModuleNotFoundError as error:
        if not command.group or (error.name or "").split(".")[0] in ("tools", "data_prep", "pretrain", "foundation"):
            raise
        print(
            f"altiplano {' '.join(name)}: {error.name} is not installed: pip install 'altiplano[{command.group}]'",
            file=sys.stderr,
        )
        return 2


def _unknown(words: Sequence[str]) -> int:
    group = {name[1]: command for name, command in COMMANDS.items() if len(name) == 2 and name[0] == words[0]}
    if group and (len(words) == 1 or words[1] in ("-h", "--help")):
        print(f"usage: altiplano {words[0]} {{{','.join(group)}}} …\n")
        for word, command in group.items():
            print(f"  {word:12} {command.help}")
        print(f"\n`altiplano {words[0]} COMMAND --help` explains each, with examples.")
        return 0 if len(words) > 1 else 2
    if group:
        print(f"altiplano {words[0]}: no command {words[1]!r}; there are {', '.join(group)}", file=sys.stderr)
    else:
        names = dict.fromkeys(name[0] for name in COMMANDS)
        print(f"altiplano: no command {words[0]!r}; there are {', '.join(names)}", file=sys.stderr)
    return 2


def whole_parser() -> argparse.ArgumentParser:
    """Every command in one parser, for completion scripts. Imports the modules of all commands."""
    parser = argparse.ArgumentParser(prog="altiplano", description="From raw text to a trained language model.")
    parser.add_argument("--version", action="store_true")
    words = parser.add_subparsers(metavar="COMMAND")
    groups: dict[str, argparse._SubParsersAction[argparse.ArgumentParser]] = {}
    for name, command in sorted(COMMANDS.items(), key=lambda item: len(item[0])):
        source = importlib.import_module(command.module).make_parser()
        for word in command.first:
            source = _children(source).choices[word]
        if len(name) == 1:
            made = words.add_parser(name[0], help=command.help, parents=[source], add_help=False)
            if any(isinstance(action, argparse._SubParsersAction) for action in made._actions):
                groups[name[0]] = _children(made)
            continue
        if name[0] not in groups:
            groups[name[0]] = words.add_parser(name[0], help=name[0]).add_subparsers(metavar="COMMAND")
        groups[name[0]].add_parser(name[1], help=command.help, parents=[source], add_help=False)
    return parser


def _children(parser: argparse.ArgumentParser) -> argparse._SubParsersAction[argparse.ArgumentParser]:
    return next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))


if __name__ == "__main__":
    sys.exit(main())
