"""Small files, small functions, short lines, documented names."""

from __future__ import annotations

import ast
import statistics

from tests.house import tree

FILE_LINES = 500
FUNCTION_LINES = 80
MEDIAN_FUNCTION_LINES = 10
LINE_COLUMNS = 100


def _length(function: tree.Function) -> int:
    assert function.end_lineno is not None
    return function.end_lineno - function.lineno + 1


def test_files_are_short() -> None:
    lengths = {name: text.count("\n") for name, text in tree.code().items()}
    assert len(lengths) > 10, "the tree was not found"
    tree.assert_none(f"{name}: {n} lines" for name, n in lengths.items() if n > FILE_LINES)


def test_lines_are_short() -> None:
    long = [
        f"{name}:{number}"
        for name, text in tree.code().items()
        for number, line in enumerate(text.splitlines(), 1)
        if len(line) > LINE_COLUMNS
    ]
    tree.assert_none(long)


def test_functions_are_short() -> None:
    long = [
        f"{name}:{function.lineno} {function.name}: {_length(function)} lines"
        for name, module in tree.modules().items()
        for function in tree.functions(module)
        if _length(function) > FUNCTION_LINES
    ]
    tree.assert_none(long)


def test_median_function_is_small() -> None:
    lengths = [
        _length(function)
        for name, module in tree.modules().items()
        if name.startswith("seqattn_fairseq/")
        for function in tree.functions(module)
    ]
    assert statistics.median(lengths) <= MEDIAN_FUNCTION_LINES


def _public(
    body: list[ast.stmt], prefix: str = ""
) -> list[tuple[str, ast.ClassDef | tree.Function]]:
    """Public classes, functions and methods, without the overloads' and properties' setters."""
    found: list[tuple[str, ast.ClassDef | tree.Function]] = []
    for node in body:
        if isinstance(node, ast.ClassDef | tree.Function) and not node.name.startswith("_"):
            found.append((prefix + node.name, node))
            if isinstance(node, ast.ClassDef):
                found += _public(node.body, f"{prefix}{node.name}.")
    return found


def test_public_names_are_documented() -> None:
    package = {n: m for n, m in tree.modules().items() if n.startswith("seqattn_fairseq/")}
    bare = [
        f"{name}:{node.lineno} {public}"
        for name, module in package.items()
        for public, node in _public(module.body)
        if not ast.get_docstring(node)
    ]
    bare += [name for name, module in package.items() if not ast.get_docstring(module)]
    tree.assert_none(bare)
