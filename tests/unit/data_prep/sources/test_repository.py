"""Source code in folders, archives, bundles and Parquet files: languages, licences, headers, files nobody wrote."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import zipfile
from collections import Counter
from collections.abc import Generator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from data_prep.config import SourceConfig
from data_prep.sources import Document, Fault, reader_of
from data_prep.sources.code_files import boilerplate_spans, rule_against, without
from data_prep.sources.code_languages import language_of
from data_prep.sources.licenses import is_allowed, is_license_file, license_of_text

MIT = (
    "MIT License\n\nCopyright (c) 2020 Ann\n\nPermission is hereby granted, free of charge, to any person …\n\n"
    "The above copyright notice and this permission notice shall be included in all\ncopies …\n"
)
GPL = "                    GNU GENERAL PUBLIC LICENSE\n                       Version 3, 29 June 2007\n\n…"
FILES = {
    "README.md": "# Tower\n\nA tool.\n",
    "LICENSE": MIT,
    "src/tower.py": "#!/usr/bin/env python\n# Copyright 2020 Ann\n# All rights reserved.\n\nprint(1)\n",
    "src/gpl/LICENSE": GPL,
    "src/gpl/a.c": "int a;\n",
    "src/own.c": "// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0\nint own;\n",
    "src/other.c": "/* SPDX-License-Identifier: GPL-2.0-only */\nint other;\n",
    "src/api_pb2.py": "x = 1\n",
    "lib/vendor/jquery.js": "var a;\n",
    "www/a.min.js": "var a=1\n",
    "data.json": "{}\n",
    "picture.png": "\x89PNG",
    "run": "#!/bin/sh\necho\n",
    "empty.py": "\n",
}
EXPECTED = {
    "README.md": "# Tower\n\nA tool.\n",
    "src/tower.py": "#!/usr/bin/env python\n\nprint(1)\n",
    "src/own.c": "int own;\n",
    "run": "#!/bin/sh\necho\n",
}
ASIDE = {
    "src/gpl/a.c": "license",
    "src/other.c": "license",
    "src/api_pb2.py": "generated",
    "lib/vendor/jquery.js": "vendored",
    "www/a.min.js": "minified",
    "empty.py": "empty",
}


def write(folder: Path, files: Mapping[str, str] = FILES) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    return folder


def read(
    root: Path, *paths: Path, licenses: tuple[str, ...] | None = None
) -> tuple[list[Document], list[Fault], Counter[str]]:
    settings = {"licenses": licenses} if licenses is not None else {}
    source = SourceConfig.model_validate({"name": "code", "kind": "repository", "paths": (str(root),), **settings})
    reader, passed_over = reader_of("repository", source.options), Counter[str]()

    def one(path: Path) -> Generator[Document | Fault, None, None]:
        size = path.stat().st_size
        for piece in reader.divide(str(path), size, 10**6):
            passed_over.update((yield from reader.read(piece, 10**6)) or {})  # type: ignore[func-returns-value]

    files = paths or [path for path in sorted(root.rglob("*")) if path.is_file() and ".git" not in path.parts]
    found = [item for path in files if reader.accepts(str(path)) for item in one(path)]
    documents = [item for item in found if isinstance(item, Document)]
    return documents, [item for item in found if isinstance(item, Fault)], passed_over


def check(root: Path, *paths: Path) -> list[Document]:
    documents, faults, _ = read(root, *paths)
    assert {item.metadata["path"]: item.text for item in documents} == EXPECTED
    aside = {fault.path.replace("!", "/"): fault.reason for fault in faults}
    assert {next(name for name in ASIDE if path.endswith(name)): reason for path, reason in aside.items()} == ASIDE
    return documents


def test_a_folder(tmp_path: Path) -> None:
    root = write(tmp_path / "tower")
    documents = check(root)
    by_path = {document.metadata["path"]: document.metadata for document in documents}
    assert by_path["src/tower.py"] == {
        "repository": "tower", "path": "src/tower.py", "code_language": "Python", "license": "MIT",
        "license_from": "repository", "removed": [[22, 66]],
    }  # fmt: skip
    assert by_path["src/own.c"]["license"] == "GPL-2.0-only OR Apache-2.0"
    assert by_path["src/own.c"]["license_from"] == "file"
    assert FILES["src/tower.py"][22:66] == "# Copyright 2020 Ann\n# All rights reserved.\n"


def test_a_folder_of_repositories(tmp_path: Path) -> None:
    write(tmp_path / "ann" / "free", {"a.py": "a = 1\n", "LICENSE.txt": MIT, "tests/data.zip": "PK"})
    write(tmp_path / "bob" / "closed", {"b.py": "b = 1\n"})
    write(tmp_path / "bob" / "gpl", {"c.py": "c = 1\n", "COPYING": GPL, ".git": "gitdir: elsewhere\n"})
    documents, faults, passed_over = read(tmp_path)
    assert [item.metadata["path"] for item in documents] == ["free/a.py"]
    assert {os.path.basename(fault.path): fault.detail for fault in faults} == {
        "b.py": "no licence is known", "c.py": "under GPL-3.0-only, which `licenses` does not allow",
    }  # fmt: skip
    assert passed_over == {"licence files": 2, "data and configuration files": 1}
    everything, _, _ = read(tmp_path, licenses=())
    assert [item.metadata["repository"] for item in everything] == ["ann", "bob", "gpl"]


def archive(path: Path, files: Mapping[str, str], top: str = "ann-tower-0a1b2c/") -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, content in files.items():
                packed.writestr(top + name, content)
        return path
    buffer = io.BytesIO()
    mode = {".gz": "w:gz", ".tgz": "w:gz", ".bz2": "w:bz2", ".xz": "w:xz"}.get(path.suffix, "w:")
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(top + name)
            entry.size = len(content.encode())
            tar.addfile(entry, io.BytesIO(content.encode()))
    content = buffer.getvalue()
    path.write_bytes(zstandard.compress(content) if path.suffix == ".zst" else content)
    return path


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tgz", "a.tar.bz2", "a.tar.xz", "a.tar.zst"])
@pytest.mark.parametrize("is_reversed", [False, True])
def test_an_archive_in_any_order(tmp_path: Path, name: str, is_reversed: bool) -> None:
    files = dict(reversed(FILES.items())) if is_reversed else FILES
    path = archive(tmp_path / name, files)
    assert {document.metadata["repository"] for document in check(tmp_path, path)} == {"ann-tower-0a1b2c"}


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz", "a.tar.zst"])
def test_a_damaged_archive_is_set_aside(tmp_path: Path, name: str) -> None:
    path = archive(tmp_path / name, {f"f{n}.py": f"x = {n}\n" * 200 for n in range(50)} | {"LICENSE": MIT}, "top/")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    _, faults, _ = read(tmp_path, path, licenses=())
    assert [fault.reason for fault in faults] == ["damaged_file"]


def git(folder: Path, *arguments: str) -> str:
    settings = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", *settings, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_a_git_bundle_and_a_checkout(tmp_path: Path) -> None:
    root = write(tmp_path / "tower")
    git(root, "init")
    git(root, "add", "--all")
    git(root, "commit", "-m", "one")
    check(root)
    git(root, "bundle", "create", str(tmp_path / "tower.bundle"), "HEAD", "--all")
    documents = check(tmp_path, tmp_path / "tower.bundle")
    assert {document.metadata["revision"] for document in documents} == {git(root, "rev-parse", "HEAD")}
    (tmp_path / "tower.bundle").write_bytes((tmp_path / "tower.bundle").read_bytes()[:-60])
    documents, faults, _ = read(tmp_path, tmp_path / "tower.bundle")
    assert not documents and [fault.reason for fault in faults] == ["damaged_file"]


def test_rows_of_the_stack(tmp_path: Path) -> None:
    table = pa.table(
        {
            "content": [*FILES.values()],
            "max_stars_repo_path": [*FILES],
            "max_stars_repo_name": ["ann/tower"] * len(FILES),
            "max_stars_repo_licenses": [["GPL-3.0"] if "gpl" in name else ["MIT", "GPL-3.0"] for name in FILES],
            "max_stars_repo_head_hexsha": ["0a1b"] * len(FILES),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    documents, faults, _ = read(tmp_path)
    assert {item.metadata["path"]: item.text for item in documents} == EXPECTED
    assert documents[0].metadata["repository"] == "ann/tower" and documents[0].metadata["revision"] == "0a1b"
    reasons = Counter(fault.reason for fault in faults)
    assert reasons == Counter(ASIDE.values()) + Counter(not_code=4)
    pq.write_table(pa.table({"code": ["x = 1\n"], "path": ["a.py"], "license": ["apache-2.0"]}), tmp_path / "a.parquet")
    assert [item.metadata["license"] for item in read(tmp_path)[0]] == ["Apache-2.0"]
    pq.write_table(pa.table({"x": [1]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet: no column with source code: kind 'repository' needs content or"):
        read(tmp_path)


def test_bad_files_are_set_aside(tmp_path: Path) -> None:
    root = write(tmp_path / "r", {"LICENSE": MIT})
    (root / "latin.c").write_bytes(b"// caf\xe9\n")
    (root / "binary.c").write_bytes(b"a\0b")
    (root / "program").write_bytes(b"\x7fELF\0" * 500_000)
    (root / "large.c").write_bytes(b"x" * 2_000_000)
    _, faults, passed_over = read(root)
    assert {os.path.basename(fault.path): fault.reason for fault in faults} == {
        "latin.c": "invalid_utf8", "binary.c": "binary", "large.c": "too_large",
    }  # fmt: skip
    assert passed_over["files that are not source code"] == 1


def test_the_setting_is_for_this_kind_alone() -> None:
    with pytest.raises(ValueError, match="licenses: has no effect: kind is 'text', not repository"):
        SourceConfig.model_validate({"name": "a", "kind": "text", "paths": ("a",), "licenses": ("MIT",)})


# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "text", "language"),
    [
        ("a.py", "x", "Python"), ("A.PY", "x", "Python"), ("a.tsx", "x", "TypeScript"), ("Makefile", "x", "Makefile"),
        ("CMakeLists.txt", "x", "CMake"), ("a.txt", "x", None), ("a.png", "x", None), ("LICENSE", "x", None),
        ("a.h", "int a;\n", "C"), ("a.h", "namespace b {\n", "C++"), ("a.h", "#include <vector>\n", "C++"),
        ("a.h", "#include <stdio.h>\n", "C"), ("a.h", "@interface A\n", "Objective-C"),
        ("a.m", "x = [1 2];\n", "Matlab"), ("a.m", "#import <A.h>\n", "Objective-C"),
        ("a.pl", "use strict;\n", "Perl"), ("a.pl", "p(X) :- q(X).\n", "Prolog"),
        ("a.v", "module a;\n", "Verilog"), ("a.v", "Theorem a : b.\n", "Rocq Prover"),
        ("a.ts", "let a = 1\n", "TypeScript"), ("a.ts", '<?xml version="1.0"?>\n<!DOCTYPE TS>', None),
        ("a.cl", "(defun a ())\n", "Common Lisp"), ("a.cl", "__kernel void a()\n", "OpenCL"),
        ("bin/run", "#!/usr/bin/env python3\n", "Python"), ("bin/run", "#!/usr/bin/env -S bash -e\n", "Shell"),
        ("bin/run", "#! /usr/bin/perl -w\n", "Perl"), ("bin/run", "text", None), ("notes.old", "#!/bin/sh\n", None),
    ],
)  # fmt: skip
def test_languages(path: str, text: str, language: str | None) -> None:
    assert language_of(path, text) == language


@pytest.mark.parametrize(
    ("text", "license"),
    [
        (MIT, "MIT"),
        (GPL, "GPL-3.0-only"),
        ("                        Apache License\n                  Version 2.0, January 2004\n", "Apache-2.0"),
        ('# Licensed under the Apache License, Version 2.0 (the "License");', "Apache-2.0"),
        ("Redistribution and use in source and binary forms … must retain the above copyright notice", "BSD-2-Clause"),
        (
            "Redistribution and use in source and binary forms … must retain the above copyright notice … to endorse "
            "or promote products derived from this software",
            "BSD-3-Clause",
        ),
        ("Mozilla Public License Version 2.0\n… GNU General Public License, Version 2.0, the GNU Lesser …", "MPL-2.0"),
        ("GNU LESSER GENERAL PUBLIC LICENSE\nVersion 3\n… the GNU General Public License version 3", "LGPL-3.0-only"),
        ("under the terms of the GNU General Public License as published by", "GPL-2.0-or-later"),
        ("Permission to use, copy, modify, and/or distribute this software … provided that the above copyright", "ISC"),
        ("/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */", "(MIT OR GPL-2.0-only)"),
        ("<!-- SPDX-License-Identifier: MIT -->", "MIT"),
        ("# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception\n", "Apache-2.0 WITH LLVM-exception"),
        ("All rights reserved.", None),
    ],
)  # fmt: skip
def test_licences_of_texts(text: str, license: str | None) -> None:
    assert license_of_text(text) == license


@pytest.mark.parametrize(
    ("expression", "is_right"),
    [
        ("MIT", True), ("mit", True), ("GPL-3.0-only", False), ("MIT OR GPL-3.0-only", True),
        ("GPL-3.0-only or MIT", True),
        ("MIT AND GPL-3.0-only", False), ("MIT AND Apache-2.0", True), ("GPL-2.0-only OR MIT AND Apache-2.0", True),
        ("(GPL-2.0-only OR MIT) AND Apache-2.0", True), ("(GPL-2.0-only OR MIT) AND GPL-3.0-only", False),
        ("Apache-2.0 WITH LLVM-exception", True), ("GPL-2.0-only WITH Classpath-exception-2.0", False),
        ("(MIT", False), ("MIT)", False), ("OR", False), ("", False), ("MIT MIT", False),
        ("(" * 500 + "MIT" + ")" * 500, False),
    ],
)  # fmt: skip
def test_expressions(expression: str, is_right: bool) -> None:
    assert is_allowed(expression, ("MIT", "Apache-2.0")) == is_right


@pytest.mark.parametrize(
    ("name", "is_right"),
    [
        ("LICENSE", True), ("LICENCE.md", True), ("license.txt", True), ("LICENSE-MIT", True), ("COPYING.LESSER", True),
        ("UNLICENSE", True), ("license.py", False), ("licenses.json", False), ("src", False),
        ("LICENSE_test.go", False),
    ],
)  # fmt: skip
def test_names_of_licence_files(name: str, is_right: bool) -> None:
    assert is_license_file(name) == is_right


@pytest.mark.parametrize(
    ("language", "text", "left"),
    [
        ("Python", "# Copyright 2020\n# Licensed under the X\nimport a\n", "import a\n"),
        ("Python", "#!/usr/bin/python\n# -*- coding: utf-8 -*-\n# Copyright A\n\nimport a\n",
         "#!/usr/bin/python\n# -*- coding: utf-8 -*-\n\nimport a\n"),
        ("Python", "# Reads towers.\nimport a\n# Copyright of the next part\n", None),
        ("Python", '"""Reads towers.\n\nCopyright 2020 A\nLicense: MIT\n"""\nimport a\n',
         '"""Reads towers.\n\n"""\nimport a\n'),
        ("Python", '"""Copyright 2020 A"""\nimport a\n', "import a\n"),
        ("C", "/* Copyright 2020 A\n *\n * No warranty.\n */\n#include <a.h>\n", "#include <a.h>\n"),
        ("C", "/*\n * tower.c: reads towers\n *\n * Copyright 2020 A\n * License X\n */\nint a;\n",
         "/*\n * tower.c: reads towers\n *\n */\nint a;\n"),
        ("C", "/* Copyright A\n *\n * Reads towers.\n */\nint a;\n", "/*\n *\n * Reads towers.\n */\nint a;\n"),
        ("C", "// Copyright A\n// Reads towers.\nint a;\n", "int a;\n"),
        ("C", "// Copyright A\n\n// Reads towers.\nint a;\n", "// Reads towers.\nint a;\n"),
        ("C", '#define LICENSE "MIT"\nint a;\n', None),
        ("C", "/* Copyright never closed\nint a;\n", None),
        ("C", "int a; /* Copyright A */\n", None),
        ("SQL", "-- Copyright A\nSELECT 1;\n", "SELECT 1;\n"),
        ("Haskell", "{- Copyright A -}\nmain = x\n", "main = x\n"),
        ("HTML", "<!DOCTYPE html>\n<!-- Copyright A -->\n<html>\n", "<!DOCTYPE html>\n<html>\n"),
        ("PHP", "<?php\n/* License: MIT */\necho 1;\n", "<?php\necho 1;\n"),
        ("JavaScript", "'use strict';\nvar license;\n", None),
        ("Fortran", "! Copyright A\nend\n", "end\n"),
    ],
)  # fmt: skip
def test_headers(language: str, text: str, left: str | None) -> None:
    assert without(text, boilerplate_spans(text, language)) == (text if left is None else left)


@pytest.mark.parametrize(
    ("path", "text", "language", "rule"),
    [
        ("a.go", "// Code generated by tool. DO NOT EDIT.\npackage a\n", "Go", "generated"),
        ("a.py", "# do not edit this lightly\nx = 1\n", "Python", None),
        ("a.py", "x = 1\n" * 60 + "# @generated\n", "Python", None),
        ("a.md", "This file is generated by A.", "Markdown", None),
        ("a.js", "var a = 1;\n" * 9, "JavaScript", None),
        ("a.js", "var a=1;" * 40, "JavaScript", "minified"),
        ("a.py", "x = 1;" * 40, "Python", None),
        ("a.c", "int t[] = {\n" + "0x1f, 0x2b, 17, 1.5e3f,\n" * 50 + "};\n", "C", "data"),
        ("a.c", "int f(int a) { return a + 12345; }\n", "C", None),
        ("third_party/a.c", "int a;", "C", "vendored"),
        ("src/vendored.c", "int a;", "C", None),
    ],
)  # fmt: skip
def test_rules(path: str, text: str, language: str, rule: str | None) -> None:
    assert rule_against(path, text, language) == rule
