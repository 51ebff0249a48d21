"""Settings from files and the command line; every message names file and line, field, value and remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field, model_validator

from foundation.configuration import ConfigError, Settings, flat_settings, known_name, load_config, write_resolved


class Source(Settings):
    name: str
    kind: Literal["jsonl", "text"] = "text"
    weight: float | None = Field(default=None, gt=0)


class Parallel(Settings):
    tensor: int = 1
    pipeline: int = Field(default=1, gt=0)


class Run(Settings):
    output: Path
    rate: float = 1e-3
    languages: tuple[str, ...] = ()
    enabled: bool = True
    limit: int | None = None
    parallel: Parallel = Parallel()
    sources: tuple[Source, ...] = Field(default=(), max_length=3)
    weights: dict[str, float] = Field(default={})

    @model_validator(mode="after")
    def _limit_holds(self) -> Run:
        if self.limit is not None and self.parallel.tensor > self.limit:
            raise ValueError(f"parallel.tensor: {self.parallel.tensor} is more than limit {self.limit}")
        return self


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def message(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(Run, path, overrides)
    return str(caught.value).replace(f"{path.parent}/", "")


def test_values_are_read_as_yaml_1_2(tmp_path: Path) -> None:
    path = write(
        tmp_path / "run.yaml", "output: runs/x\nrate: 1e-5\nlanguages: [no, on, de]\nlimit: 010\nweights: {no: 1}\n"
    )
    run = load_config(Run, path)
    assert run.rate == 1e-5
    assert run.languages == ("no", "on", "de")
    assert run.limit == 10
    assert run.weights == {"no": 1.0}


def test_bases_lie_below_the_file_and_overrides_above_it(tmp_path: Path) -> None:
    write(
        tmp_path / "deep" / "first.yaml",
        "parallel: {tensor: 2, pipeline: 2}\nsources: [{name: a}, {name: b}]\nrate: 1.0",
    )
    write(tmp_path / "second.yaml", "parallel:\n  tensor: 3\n")
    path = write(
        tmp_path / "run.yaml",
        "base: [deep/first.yaml, second.yaml]\noutput: x\nsources: [{name: c}]\nlanguages: [de]\n",
    )
    run = load_config(Run, path, ["parallel.pipeline=4", "sources.0.kind=jsonl", "languages=[en, fr]", "limit=7"])
    assert run.parallel == Parallel(tensor=3, pipeline=4)
    assert run.sources == (Source(name="c", kind="jsonl"),)
    assert run.languages == ("en", "fr")
    assert (run.rate, run.limit) == (1.0, 7)


def test_an_override_of_a_section_merges_and_null_takes_back(tmp_path: Path) -> None:
    path = write(tmp_path / "run.yaml", "output: x\nlimit: 5\nparallel: {tensor: 2}\n")
    run = load_config(Run, path, ["parallel={pipeline: 3}", "limit=null"])
    assert run.parallel == Parallel(tensor=2, pipeline=3)
    assert run.limit is None


def test_unknown_settings_are_refused_with_a_suggestion(tmp_path: Path) -> None:
    path = write(tmp_path / "run.yaml", "output: x\nparallel:\n  tensr: 2\nsources:\n  - name: a\n    wieght: 1\n")
    assert message(path) == (
        "run.yaml:3: parallel.tensr: unknown setting; did you mean 'tensor'?\n"
        "run.yaml:6: sources.0.wieght: unknown setting; did you mean 'weight'?"
    )


def test_without_a_close_name_the_known_ones_are_listed(tmp_path: Path) -> None:
    path = write(tmp_path / "run.yaml", "output: x\nparallel: {zzz: 1}\n")
    assert message(path) == "run.yaml:2: parallel.zzz: unknown setting; known here: pipeline, tensor"


def test_a_fault_in_a_base_is_placed_in_the_base(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", "rate: 1.0\nparallel:\n  pipeline: 0\n")
    path = write(tmp_path / "run.yaml", "base: base.yaml\noutput: x\nparallel:\n  tensor: 2\n")
    assert message(path) == "base.yaml:3: parallel.pipeline: 0 is not allowed: it should be greater than 0"


def test_a_fault_of_an_override_is_placed_on_the_command_line(tmp_path: Path) -> None:
    path = write(tmp_path / "run.yaml", "output: x\nparallel: {pipeline: 1}\n")
    assert message(path, "parallel.pipeline=0").startswith("command line: parallel.pipeline: 0 is not allowed")
    assert message(path, "paralel.tensor=2") == "command line: paralel: unknown setting; did you mean 'parallel'?"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("limit: true", "run.yaml:2: limit: true is not allowed: it should be a valid integer"),
        ("limit: '8'", "run.yaml:2: limit: '8' is not allowed: it should be a valid integer"),
        ("rate: .nan", "run.yaml:2: rate: NaN is not allowed: it should be a finite number"),
        ("enabled: yes", "run.yaml:2: enabled: 'yes' is not allowed: it should be a valid boolean"),
        (
            "sources: [{name: a, kind: txt}]",
            "run.yaml:2: sources.0.kind: 'txt' is not allowed: it should be 'jsonl' or 'text'; did you mean 'text'?",
        ),
        ("sources: [{kind: text}]", "run.yaml:2: sources.0.name: missing; it has no default and must be given"),
        ("limit: 2\nparallel:\n  tensor: 3", "run.yaml:4: parallel.tensor: 3 is more than limit 2"),
        ("parallel: 3", "run.yaml:2: parallel: 3 is not allowed"),
    ],
)
def test_bad_values_are_shown_with_the_rule(tmp_path: Path, line: str, expected: str) -> None:
    assert message(write(tmp_path / "run.yaml", f"output: x\n{line}\n")).startswith(expected)


def test_a_missing_setting_names_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "run.yaml", "rate: 1.0\n")
    assert message(path) == "run.yaml: output: missing; it has no default and must be given"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("output: x\nrate: 1.0\noutput: y\n", "run.yaml:3: output: given twice, first at run.yaml:1"),
        ("output: [x\nrate: 2\n", "run.yaml:2: not valid YAML: "),
        ("output: x\n\tlimit: 2\n", "run.yaml:2: not valid YAML: "),
        ("- output\n", 'run.yaml:1: expected settings as `name: value`, found ["output"]'),
        ("base: nowhere.yaml\noutput: x\n", "run.yaml:1: base: 'nowhere.yaml' is no file; it is looked for at "),
        ("base: {a: 1}\n", "run.yaml:1: base: expected a path or a list of paths"),
        ("output: &a [*a]\n", "run.yaml:1: output.0: an alias refers to the section that contains it"),
        ("parallel:\n  <<: {tensor: 2}\n", "run.yaml:2: parallel: keys must be names; `<<` is not supported"),
        ("output: !!python/object:os.system x\n", "run.yaml:1: not valid YAML: could not determine a constructor"),
    ],
)
def test_files_that_cannot_be_understood(tmp_path: Path, text: str, expected: str) -> None:
    assert message(write(tmp_path / "run.yaml", text)).startswith(expected)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert message(tmp_path / "none.yaml") == "none.yaml: no such configuration file"
    (tmp_path / "latin.yaml").write_bytes(b"output: caf\xe9\n")
    assert message(tmp_path / "latin.yaml").startswith("latin.yaml: cannot be read: 'utf-8' codec")
    assert "cannot be read" in message(tmp_path)


def test_a_circle_of_bases_is_found(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "base: b.yaml\n")
    path = write(tmp_path / "b.yaml", "base: a.yaml\n")
    assert message(path) == "b.yaml: base: the file is based on itself, by way of a.yaml"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("limit", "command line: 'limit': expected an override such as parallel.tensor=2"),
        ("limit..x=1", "command line: 'limit..x=1': expected an override"),
        ("limit.x=1", "command line: limit.x: limit is 5, which has no settings of its own"),
        ("sources.1.name=b", "command line: sources.1.name: sources is a list of 1; '1' is none of its indices"),
        ("sources.x.name=b", "command line: sources.x.name: sources is a list of 1; 'x' is none of its indices"),
        ("languages=[de", "command line: languages: not valid YAML: "),
        ("base=other.yaml", "command line: base: unknown setting"),
    ],
)
def test_overrides_that_cannot_be_applied(tmp_path: Path, override: str, expected: str) -> None:
    path = write(tmp_path / "run.yaml", "output: x\nlimit: 5\nsources: [{name: a}]\n")
    assert message(path, override).startswith(expected)


def test_resolved_settings_are_read_back_equal(tmp_path: Path) -> None:
    run = Run(
        output=Path("runs/é"),
        rate=1e-5,
        languages=("no", "1e5", "null", "~", "0x1"),
        sources=(Source(name="a"),),
        limit=3,
    )
    write_resolved(run, tmp_path / "resolved.yaml")
    assert load_config(Run, tmp_path / "resolved.yaml") == run
    assert "pipeline: 1" in (tmp_path / "resolved.yaml").read_text(encoding="utf-8")


def test_settings_cannot_be_changed_or_misspelt_in_python_either() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Parallel().tensor = 2  # type: ignore[misc]
    with pytest.raises(ValueError, match="Extra inputs"):
        Parallel(tensr=2)  # type: ignore[call-arg]


def test_a_name_that_is_not_known_is_refused_with_the_closest_one() -> None:
    assert known_name("gopher", ("gopher", "c4"), "rule set") == "gopher"
    with pytest.raises(
        ValueError, match=r"^rule set 'gofer' is unknown; did you mean 'gopher'\? known are gopher, c4$"
    ):
        known_name("gofer", ("gopher", "c4"), "rule set")
    with pytest.raises(ValueError, match=r"^rule set 'x' is unknown; known are gopher, c4$"):
        known_name("x", ("gopher", "c4"), "rule set")


def test_settings_are_flattened_to_dotted_names() -> None:
    assert flat_settings({"a": {"b": 1, "c": {"d": [2]}}, "e": {}}) == {"a.b": 1, "a.c.d": [2], "e": {}}
