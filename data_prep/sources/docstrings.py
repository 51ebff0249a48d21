"""Documentation in Python modules: each module's docstrings are one document."""

from __future__ import annotations

import ast
import os
import warnings
from collections.abc import Iterator

from data_prep.sources.python import accepts, source_text
from data_prep.sources.ranges import FileRange
from data_prep.sources.reading import Document, Fault, Reader, excerpt_of, usable


def read(piece: FileRange, maximum_document_bytes: int) -> Iterator[Document | Fault]:
    """Yield the docstrings of a module, each below the name and arguments of its function or class."""
    path = piece.path
    text = source_text(path, maximum_document_bytes)
    if isinstance(text, Fault):
        yield text
        return

    def fault(reason: str, detail: str) -> Fault:
        return Fault(reason, detail, path, excerpt=excerpt_of(text))

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other people's invalid escapes
            module = ast.parse(text)
        blocks = list(_blocks(module))
    except SyntaxError as error:
        yield Fault("syntax_error", str(error.msg), path, line=error.lineno, excerpt=excerpt_of(error.text or ""))
        return
    except (ValueError, RecursionError, MemoryError) as error:
        yield fault("syntax_error", f"{type(error).__name__}: {error}")
        return
    if not blocks:
        yield fault("empty", "no docstrings")
        return
    yield usable("\n\n".join(blocks) + "\n", path, {"file": os.path.basename(path)}, fault, maximum_document_bytes)


def _blocks(module: ast.Module) -> Iterator[str]:
    documentation = ast.get_docstring(module)
    if documentation:
        yield documentation.rstrip()
    yield from _members(module, "")


def _members(node: ast.AST, prefix: str) -> Iterator[str]:
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            name = prefix + inner.name
            documentation = ast.get_docstring(inner)
            if documentation:
                yield f"{_heading(inner, name)}\n\n{documentation.rstrip()}"
            if isinstance(inner, ast.ClassDef):
                yield from _members(inner, f"{name}.")
        elif isinstance(inner, ast.If | ast.Try):
            yield from _members(inner, prefix)


def _heading(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, name: str) -> str:
    if not isinstance(node, ast.ClassDef):
        arguments = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        return f"{name}({', '.join(argument for argument in arguments if argument not in ('self', 'cls'))})"
    return f"class {name}"


READER = Reader(accepts, read)
