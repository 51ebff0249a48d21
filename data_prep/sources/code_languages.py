"""Programming languages of files, by name and, where a suffix has several languages, by content.

Names are those of GitHub's Linguist, as in The Stack (Kocetkov et al. 2022, arXiv:2211.15533).
"""

from __future__ import annotations

import os
import re

_SUFFIXES_TABLE = """
Ada: adb ads
Agda: agda
Assembly: asm s
AWK: awk
Batchfile: bat cmd
C: c h
C#: cs
C++: cc cpp cxx c++ hh hpp hxx h++ inl ipp tpp
Clojure: clj cljs cljc
CMake: cmake
COBOL: cob cbl
CoffeeScript: coffee
Common Lisp: lisp lsp cl
CSS: css
Cuda: cu cuh
Cython: pyx pxd
D: d
Dart: dart
Elixir: ex exs
Elm: elm
Emacs Lisp: el
Erlang: erl hrl
F#: fs fsi fsx
Fortran: f f77 f90 f95 f03 f08 for
GLSL: glsl vert frag
Go: go
GraphQL: graphql gql
Groovy: groovy gradle
Haskell: hs lhs
HCL: tf hcl
HTML: html htm
Idris: idr
Java: java
JavaScript: js mjs cjs jsx
Julia: jl
Kotlin: kt kts
Lean: lean
Less: less
Lua: lua
Markdown: md markdown
Matlab: m
Mathematica: wl
MLIR: mlir
Nim: nim
Nix: nix
Objective-C: mm
OCaml: ml mli
Pascal: pas pp
Perl: pl pm
PHP: php
PowerShell: ps1 psm1
Prolog: pro
Protocol Buffer: proto
PureScript: purs
Python: py pyi
R: r
Racket: rkt
reStructuredText: rst
Ruby: rb rake gemspec
Rust: rs
SAS: sas
Scala: scala sc
Scheme: scm ss
SCSS: scss
Shell: sh bash zsh ksh
Smalltalk: st
Solidity: sol
SQL: sql
Stan: stan
Standard ML: sml
Stata: do ado
Svelte: svelte
Swift: swift
SystemVerilog: sv svh
Tcl: tcl
TeX: tex sty cls
Thrift: thrift
TypeScript: ts tsx mts cts
Verilog: v
VHDL: vhd vhdl
Visual Basic .NET: vb
Vim Script: vim
Vue: vue
WebAssembly: wat
WGSL: wgsl
Zig: zig
"""
_BY_SUFFIX = {
    f".{suffix}": language
    for language, _, suffixes in (line.partition(":") for line in _SUFFIXES_TABLE.strip().split("\n"))
    for suffix in suffixes.split()
}
_BY_NAME = {
    "cmakelists.txt": "CMake",
    "dockerfile": "Dockerfile",
    "containerfile": "Dockerfile",
    "gemfile": "Ruby",
    "rakefile": "Ruby",
    "jenkinsfile": "Groovy",
    "makefile": "Makefile",
    "gnumakefile": "Makefile",
    "meson.build": "Meson",
    "build.bazel": "Starlark",
    "build": "Starlark",
    "workspace": "Starlark",
    ".bashrc": "Shell",
    ".vimrc": "Vim Script",
}
_BY_INTERPRETER = {
    "python": "Python", "pypy": "Python", "bash": "Shell", "sh": "Shell", "zsh": "Shell", "ksh": "Shell",
    "dash": "Shell", "perl": "Perl", "ruby": "Ruby", "node": "JavaScript", "deno": "TypeScript", "php": "PHP",
    "lua": "Lua", "awk": "AWK", "gawk": "AWK", "tclsh": "Tcl", "rscript": "R", "julia": "Julia", "groovy": "Groovy",
    "make": "Makefile",
}  # fmt: skip
_INTERPRETER = re.compile(r"#![ \t]*(?:\S{0,200}/)?(?:env[ \t]+(?:-\S{1,20}[ \t]+)?)?([A-Za-z]{1,20})")

DATA_SUFFIXES = frozenset(
    (
        ".json", ".jsonl", ".geojson", ".csv", ".tsv", ".xml", ".svg", ".yaml", ".yml", ".toml", ".ini", ".lock",
        ".po", ".pot", ".plist", ".ipynb", ".log", ".dat", ".obj", ".stl", ".ply", ".fasta", ".pem", ".crt",
        ".map", ".sum",
    )
)  # fmt: skip
"""Suffixes of data, configuration and logs, which are not source code."""

_HEAD_CHARACTERS = 20_000
"""Start of a file whose content decides between languages."""
_AMBIGUOUS: dict[str, tuple[tuple[re.Pattern[str], str], ...]] = {
    ".h": (
        (re.compile(r"^[ \t]{0,8}(?:@interface|@protocol|@property|#import)\b", re.MULTILINE), "Objective-C"),
        (
            re.compile(
                r"^[ \t]{0,16}(?:class [A-Za-z_]|namespace [A-Za-z_{]|template[ \t]{0,4}<|using [A-Za-z_]|"
                r"public:|private:|protected:|#include <[a-z_]{1,40}>)",
                re.MULTILINE,
            ),
            "C++",
        ),
    ),
    ".m": (
        (
            re.compile(r"^[ \t]{0,8}(?:@interface|@implementation|@import|#import|#include)\b", re.MULTILINE),
            "Objective-C",
        ),
        (re.compile(r"^(?:\(\*|BeginPackage\[)", re.MULTILINE), "Mathematica"),
    ),
    ".pl": ((re.compile(r"^(?::-|[a-z]\w{0,60}\([^()\n]{0,200}\)[ \t]{0,4}:-)", re.MULTILINE), "Prolog"),),
    ".v": (
        (
            re.compile(r"^(?:Require|Theorem|Lemma|Definition|Proof\.|Fixpoint|Inductive)\b", re.MULTILINE),
            "Rocq Prover",
        ),
    ),
    ".cl": ((re.compile(r"\b__kernel\b"), "OpenCL"),),
    ".pp": (
        (re.compile(r"^[ \t]{0,8}(?:class|node|define) [\w:']{1,60}[ \t]{0,4}(?:\(|\{)", re.MULTILINE), "Puppet"),
    ),
    ".pro": ((re.compile(r"^[ \t]{0,8}(?:QT|TARGET|SOURCES|HEADERS|CONFIG)[ \t]{0,8}\+?=", re.MULTILINE), "QMake"),),
}  # fmt: skip
"""Other languages of a suffix: the first whose pattern is in the file, otherwise the suffix's own."""
_TRANSLATIONS = re.compile(r"\A\s{0,100}(?:<\?xml|<!DOCTYPE TS|<TS\b)")


def language_by_name(path: str) -> str | None:
    """Return the usual language of a file's name; None: unknown."""
    name = os.path.basename(path).lower()
    return _BY_NAME.get(name) or _BY_SUFFIX.get(os.path.splitext(name)[1])


def has_no_suffix(path: str) -> bool:
    """Return whether a file's content may decide its language: a script is named without a suffix."""
    return "." not in os.path.basename(path)


def language_of(path: str, text: str) -> str | None:
    """Return the language of a file, by its name, its interpreter or its content; None: it is not source code."""
    language = language_by_name(path)
    if language is None:
        found = _INTERPRETER.match(text) if has_no_suffix(path) else None
        return _BY_INTERPRETER.get(found[1].lower()) if found else None
    suffix = os.path.splitext(path)[1].lower()
    if suffix == ".ts" and _TRANSLATIONS.match(text):
        return None  # Qt's translations
    head = text[:_HEAD_CHARACTERS]
    return next((other for pattern, other in _AMBIGUOUS.get(suffix, ()) if pattern.search(head)), language)
