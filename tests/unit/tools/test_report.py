"""The page shows what a run folder holds, names what is missing, and needs nothing from outside."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from foundation.configuration import load_config, write_resolved
from pretrain.config import TrainConfig
from tests.small_run import write_small_run
from tools.charts import Series, line_chart, number, smoothed
from tools.hugging_face.verify import RESULT_FILE
from tools.report.__main__ import main
from tools.status import main as status

CONFIGS = Path(__file__).parents[3] / "configs" / "train"

LEDGER = {
    "documents": {
        "in": 100,
        "kept": 70,
        "dropped": 30,
        "by_reason": {"near_duplicate": 20, "gopher:<words>": 10},
        "by_source": {
            "docs": {"in": 60, "kept": 50, "by_reason": {"near_duplicate": 10}, "bytes_kept": 2_500_000},
            "code": {"in": 40, "kept": 20, "by_reason": {"near_duplicate": 10, "gopher:<words>": 10}, "bytes_kept": 0},
        },
        "by_language": {"en": {"in": 90, "kept": 65}, "de": {"in": 10, "kept": 5}},
    }
}


def metrics(last_step: int) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = [{"kind": "event", "step": 0, "event": "started"}]
    for step in range(1, last_step + 1):
        if step == 4:
            lines.append({"kind": "event", "step": 3, "event": "resumed"})
        lines.append(
            {
                "kind": "train",
                "step": step,
                "consumed_samples": step * 16,
                "consumed_tokens": step * 4096,
                "loss": 9.0 / step,
                "gradient_norm": 1.0 / step,
                "learning_rate": 1e-3,
                "tokens_per_second": 1000.0 * step,
                "step_seconds": 30.0,
            }
        )
    by_source = {"loss/docs": 2.25, "tokens/docs": 1024, "loss/code": 2.75, "tokens/code": 3072}
    evaluation = {"kind": "evaluation", "step": last_step, "loss": 2.5, "perplexity": 12.18, "tokens": 4096}
    return [*lines, {**evaluation, **by_source}]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "demo"
    train = folder / "train"
    (train / "checkpoints" / "step-00000006").mkdir(parents=True)
    (folder / "tokens").mkdir()
    (folder / "ledger.json").write_text(json.dumps(LEDGER), encoding="utf-8")
    sha256 = "{bin: '" + "0" * 64 + "', idx: '" + "0" * 64 + "'}"
    (folder / "tokens" / "mixture.yaml").write_text(
        "version: 1\ntokenizer: ../tokenizer\nvocabulary_size: 16384\nend_of_document: 0\ndatasets:\n"
        "  - {name: docs, path: docs, heldout: docs.heldout, documents: 49, tokens: 654321, heldout_documents: 1,\n"
        f"     heldout_tokens: 999, weight: 3, sha256: {sha256}, heldout_sha256: {sha256}}}\n",
        encoding="utf-8",
    )
    text = "".join(json.dumps(line) + "\n" for line in metrics(6)) + '{"kind": "tr'
    (train / "metrics.jsonl").write_text(text, encoding="utf-8")
    mixture = f"data.mixture={folder / 'tokens' / 'mixture.yaml'}"  # not that of a demo in this checkout
    write_resolved(load_config(TrainConfig, CONFIGS / "demo.yaml", [mixture]), train / "config.resolved.yaml")
    (train / "checkpoints" / "latest").write_text("step-00000006\n", encoding="utf-8")
    index = json.dumps({"versions": {"torch": "2.13.0"}})
    (train / "checkpoints" / "step-00000006" / "checkpoint.json").write_text(index, encoding="utf-8")
    check = {
        "checkpoint": "step-00000006",
        "dtype": "float32",
        "max_abs_difference": 1e-5,
        "largest_logit": 9.0,
        "tokens_compared": 2048,
        "greedy_agreement": 1.0,
        "bound": 9e-4,
        "within_bound": True,
        "samples": [{"prompt": "def ", "continuation": "f(x): return x < 1 & <script>alert(1)</script>"}],
    }
    (folder / RESULT_FILE).write_text(json.dumps(check), encoding="utf-8")
    return folder


def written(folder: Path) -> str:
    assert main([str(folder)]) == 0
    text = (folder / "report.html").read_text(encoding="utf-8")
    Balanced().feed(text)
    return text


class Balanced(HTMLParser):
    """Fails where a tag is closed that is not the open one."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_holds_the_numbers(run: Path) -> None:
    text = written(run)
    for shown in (
        "100 documents in = 70 kept + 30 dropped",
        "70.0% of 100",
        "654,321",
        "from 9.000",
        "perplexity 12.2",
        "By source at step 6",
        "2.7500",
        "Stopped and resumed at step 3.",
        "held-out loss",
        "2.13.0",
        "beta2: 0.95",
        "1.00e-05",
        "the model computes what the checkpoint does (step-00000006",
    ):
        assert shown in text, shown
    assert text.count("<svg") == 4
    missing, unchecked = re.findall(r'class="missing">([^<]*)', text)
    assert "have not been compared with a single one" in unchecked
    assert "token files cannot be opened here" in missing  # this run has none


def test_the_page_is_one_file_and_what_models_write_stays_text(run: Path) -> None:
    text = written(run)
    assert not re.search(r"<(script|link|img|iframe)|https?://(?!www\.w3\.org/)|url\((?!#)|@import", text)
    assert "&lt;script&gt;alert(1)" in text and "gopher:&lt;words&gt;" in text


def test_missing_parts_are_said(tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    text = written(folder)
    for shown in ("no ledger.json yet", "No step has been trained yet", "not been exported", "no tokens/mixture.yaml"):
        assert shown in text.replace("There is ", ""), shown


def test_rare_reasons_are_folded_and_not_lost(run: Path) -> None:
    ledger = json.loads(json.dumps(LEDGER))
    ledger["documents"]["by_reason"] = {f"reason_{i}": 20 - i for i in range(15)}
    (run / "ledger.json").write_text(json.dumps(ledger), encoding="utf-8")
    text = written(run)
    assert "3 rarer reasons" in text and all(f"reason_{i}<" in text for i in range(15))


def test_a_wrong_export_stands_out(run: Path) -> None:
    path = run / RESULT_FILE
    check = json.loads(path.read_text(encoding="utf-8")) | {"within_bound": False, "max_abs_difference": 1.5}
    path.write_text(json.dumps(check), encoding="utf-8")
    text = written(run)
    assert "does NOT compute what the checkpoint does" in text and "✗" in text


def test_tasks_have_curves_and_a_table(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def line(step: int, accuracy: float) -> dict[str, Any]:
        own = {"quiz/acc": accuracy, "quiz/acc_norm": accuracy + 0.01, "quiz_part/acc": 0.5, "texts/bits_per_byte": 1.5}
        return {"kind": "tasks", "step": step, **own, "seconds": 3.0, "texts/word_perplexity": "inf"}

    path = run / "train" / "metrics.jsonl"
    whole = path.read_text(encoding="utf-8").rsplit("\n", 1)[0]
    path.write_text(f"{whole}\n{json.dumps(line(3, 0.25))}\n{json.dumps(line(6, 0.3125))}\n", encoding="utf-8")
    text = written(run)
    assert text.count("<svg") == 4 + 3  # the settings of this run name no task, so that each has a curve
    for shown in ("quiz, acc_norm", "texts, bits_per_byte", "0.2500 at step 3", "0.3125", "quiz_part"):
        assert shown in text, shown
    assert "word_perplexity" not in text
    resolved = run / "train" / "config.resolved.yaml"
    config = yaml.safe_load(resolved.read_text(encoding="utf-8"))
    config["evaluation"]["tasks"] = [{"name": "texts"}, {"name": "quiz"}]
    resolved.write_text(yaml.safe_dump(config), encoding="utf-8")
    assert written(run).count("<svg") == 4 + 2
    assert status([str(run)]) == 0
    printed = capsys.readouterr().out
    assert "quiz, acc_norm" in printed and "0.3225 at step 6" in printed and "quiz_part" not in printed


def test_a_run_that_has_just_begun(run: Path) -> None:
    line = json.dumps(metrics(1)[1])
    (run / "train" / "metrics.jsonl").write_text(line + "\n", encoding="utf-8")
    assert "Loss, nats per token" in written(run)


def test_what_happened_on_the_way_is_told(run: Path) -> None:
    path = run / "train" / "metrics.jsonl"
    whole = path.read_text(encoding="utf-8").rsplit("\n", 1)[0]
    more = [
        {"kind": "event", "step": 3, "event": "resumed", "topology": "tensor 2 × pipeline 1 × data 3"},
        {
            "kind": "event",
            "step": 4,
            "event": "pass seconds",
            "by_rank": [0.5, 0.5, 1.5],
            "nodes": ["n1", "n1", "<n2>"],
        },
        {"kind": "event", "step": 4, "event": "straggler", "nodes": ["<n2>"], "ranks": [2], "ratio": 3.0},
        {"kind": "event", "step": 6, "event": "saved", "checkpoint": "step-00000006", "seconds": 90.0},
        {"kind": "event", "step": 6, "event": "stopped", "reason": "SIGUSR1 on n1", "exit_code": 75},
        {"kind": "train", "step": 7, "loss": 1.0, "consumed_samples": 9, "mfu": 0.42, "goodput": 0.875},
    ]
    path.write_text(whole + "\n" + "".join(json.dumps(line) + "\n" for line in more), encoding="utf-8")
    spike = {"kind": "transient", "step": 5, "onset": 4, "peak": 1.5, "reason": "healed"}
    (run / "train" / "spikes.jsonl").write_text(json.dumps(spike) + "\n", encoding="utf-8")
    text = written(run)
    for shown in (
        "<b>6</b><span>tensor 2 × pipeline 1 × data 3",
        "<b>42.0%</b><span>MFU, median",
        "<b>87.5%</b><span>of the time led to kept steps",
        "reason SIGUSR1 on n1, exit_code 75",
        "<td>&lt;n2&gt;</td><td>1</td><td>1.500</td>",
        "step 5: transient; loss up to 1.50 times its level from step 4 on, healed",
        "<td>1 min 30 s</td><td>50.0%</td>",
    ):
        assert shown in text, shown
    assert text.index("&lt;n2&gt;</td><td>1<") < text.index("n1</td><td>2<")  # the slowest first


@pytest.mark.parametrize(("skipped", "first", "second"), [([], "1", "0"), ([[0, 1]], "0", "1")])
def test_data_consumed_is_counted_from_the_plan(
    tmp_path: Path, skipped: list[list[int]], first: str, second: str
) -> None:
    config = yaml.safe_load(write_small_run(tmp_path).read_text())
    mixture = yaml.safe_load((tmp_path / "mixture.yaml").read_text())
    mixture["datasets"] = [{**mixture["datasets"][0], "name": name} for name in ("one", "two")]  # they take turns
    (tmp_path / "mixture.yaml").write_text(yaml.safe_dump(mixture))
    train = tmp_path / "train"
    train.mkdir()
    (train / "config.resolved.yaml").write_text(yaml.safe_dump(config))
    line = {"kind": "train", "step": 1, "consumed_samples": 1, "loss": 1.0}
    (train / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    rollback = {"kind": "rollback", "step": 5, "onset": 4, "reason": "", "attempt": 1, "to_step": 0}
    (train / "spikes.jsonl").write_text("".join(json.dumps({**rollback, "skipped": r}) + "\n" for r in skipped))
    text = written(tmp_path)
    assert "<p>1 samples, 32 tokens.</p>" in text
    assert f"<td>one</td><td>{first}</td>" in text and f"<td>two</td><td>{second}</td>" in text
    assert ("Skipped: [0, 1)." in text) == bool(skipped)


def other_run(run: Path, folder: Path) -> Path:
    shutil.copytree(run, folder)
    path = folder / "train" / "metrics.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace('"loss": 4.5', '"loss": 4.75'), encoding="utf-8")
    config = folder / "train" / "config.resolved.yaml"
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace("learning_rate: 0.004", "learning_rate: 0.006"), encoding="utf-8")
    return folder


def test_two_runs_in_one_page(run: Path, tmp_path: Path) -> None:
    other = other_run(run, tmp_path / "other")
    assert main([str(run), "--against", str(other)]) == 0
    text = (run / "comparison.html").read_text(encoding="utf-8")
    Balanced().feed(text)
    for shown in (
        "<th>demo</th><th>other</th>",
        "<td>optimizer.learning_rate</td><td>0.004</td><td>0.006</td>",
        "Of 6 common steps the loss differs most at step 2: by +0.25.",
        "Loss of the second run less that of the first",
    ):
        assert shown in text, shown
    assert text.count("<td>optimizer.") == 1

    assert main([str(run), "--against", str(run)]) == 0
    text = (run / "comparison.html").read_text(encoding="utf-8")
    assert "The losses of all 6 common steps are the same." in text


def test_nothing_to_compare_with_is_said(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert main([str(run), "--against", str(tmp_path / "empty")]) == 2
    assert "no step has been trained yet, so there is nothing to compare" in capsys.readouterr().err


def test_faults_are_named(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none")]) == 2
    assert "none: no such folder; give the folder of a run" in capsys.readouterr().err
    (run / "ledger.json").write_text('{"documents":\n oops', encoding="utf-8")
    assert main([str(run)]) == 2
    assert "ledger.json:2: not valid JSON" in capsys.readouterr().err


def test_numbers_are_short() -> None:
    assert [number(x) for x in (0, 1.0, 0.0002, 1e-5, 2500, 12_000, 11_790_000, 7.5e9, 1e12)] == [
        "0", "1", "0.0002", "1.0e-05", "2,500", "12k", "11.79M", "7.5G", "1T",
    ]  # fmt: skip


def test_smoothing_follows_a_straight_line_and_evens_out_noise() -> None:
    line = [(float(x), 100.0 - 3 * x) for x in range(20)]
    assert smoothed(line) == [(x, pytest.approx(y)) for x, y in line]
    zigzag = [(float(x), float(x % 2)) for x in range(1000)]
    assert all(abs(y - 0.5) < 0.02 for _, y in smoothed(zigzag)[25:-25])
    assert smoothed([(1, 4.0)]) == [(1, 4.0)]


def test_a_chart_places_its_points() -> None:
    points = [(0.0, 0.0), (5.0, 1.0), (10.0, 5.0)]
    chart = line_chart(
        "t", [Series("strong", "loss", points)], x_label="x", marks=[(2.0, "in"), (11.0, "out")], zero=True
    )
    path = re.search(r'<g id="loss">\s*<path d="M ([\d.]+) ([\d.]+) \nL ([\d.]+) ([\d.]+) \nL ([\d.]+) ([\d.]+)', chart)
    assert path
    x0, y0, x1, y1, x2, y2 = map(float, path.groups())
    assert x1 - x0 == pytest.approx(x2 - x1, rel=1e-5) and (y0 - y2) == pytest.approx(5 * (y0 - y1), rel=1e-4)
    assert ">in</text>" in chart and ">out</text>" not in chart
    assert line_chart("t", [Series("strong", "", [])], x_label="x") == ""
