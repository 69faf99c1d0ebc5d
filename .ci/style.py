"""List what the style guide rules out: long functions, long modules, fragments and retired terms in prose.

A comment or docstring starts with a capital letter, a number, a symbol or a name written in lowercase. A
docstring of a function or class does not start with a question word. A comment behind code may be a short
lowercase clause. Migrations are exempt: they are lists of statements, and their titles are Alembic's. Exits
with 1 if anything is listed.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
DIRECTORIES = ("src", "tests", "bench", "deploy", "migrations", ".ci")
EXEMPT = {"versions", "node_modules"}
FUNCTION_LINES_MAX = 60
MODULE_LINES_MAX = 350
LOWERCASE_NAMES = {
    *("asyncio", "asyncpg", "anyio", "alembic", "curl", "depot", "haproxy", "httptools", "httpx", "initdb"),
    *(
        "libpq",
        "msgspec",
        "mypy",
        "nginx",
        "pgbouncer",
        "pip",
        "psql",
        "pytest",
        "ruff",
        "setpriv",
        "structlog",
    ),
    *("uvicorn", "uvloop", "wrk", "advanced-alchemy", "iText", "libpng", "qpdf", "exiftool", "schemathesis"),
}
DEFINITIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
QUESTION_WORDS = re.compile(r"(What|Whether|How|Who|When|Where|Why)\b")
RETIRED_TERMS = re.compile(
    r"\b(pulse|shelf|shelves|lanes?|parcels?|lifeline|puller|ears?|sight|telling|owed|wares?|patience|ours"
    r"|(?:the|a) house|(?:the|a|no) room|aside|a look|looks? (?:at|for))\b"
)


def main() -> int:
    findings = [finding for path in modules() for finding in sorted(findings_of(path))]
    for path, line, problem in findings:
        print(f"{path.relative_to(ROOT)}:{line}: {problem}")
    return 1 if findings else 0


def modules() -> Iterator[Path]:
    for path in sorted(path for directory in DIRECTORIES for path in (ROOT / directory).rglob("*.py")):
        if not EXEMPT & set(path.relative_to(ROOT).parts):
            yield path


def findings_of(path: Path) -> Iterator[tuple[Path, int, str]]:
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    if (length := source.count("\n")) > MODULE_LINES_MAX:
        yield path, 1, f"the module has {length} lines"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            if length > FUNCTION_LINES_MAX:
                yield path, node.lineno, f"{node.name} has {length} lines"
        if isinstance(node, DEFINITIONS) and QUESTION_WORDS.match(ast.get_docstring(node) or ""):
            yield path, node.lineno, f"the docstring of {node.name} starts with a question word"
    for line, text, may_be_clause in (*docstrings(tree), *comments(source)):
        if not may_be_clause and is_fragment(text):
            yield path, line, f"starts in lowercase: {' '.join(text.split())[:60]}"
        if term := RETIRED_TERMS.search(text):
            yield path, line, f"retired term {term[0]!r}: {' '.join(text.split())[:60]}"


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str, bool]]:
    """Yield the texts that stand alone as a statement: docstrings of modules, functions and constants."""
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield node.lineno, text.strip(), False


def comments(source: str) -> Iterator[tuple[int, str, bool]]:
    """Yield each comment, with the lines of one block joined."""
    block: list[str] = []
    begin = last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT or re.match(r"#!|# (type: |noqa|fmt: )", token.string):
            continue
        line, text = token.start[0], token.string.removeprefix("#").strip()
        if token.line[: token.start[1]].strip():
            yield line, text, True
        elif block and line == last + 1:
            block.append(text)
            last = line
        else:
            if block:
                yield begin, " ".join(block), False
            block, begin, last = [text], line, line
    if block:
        yield begin, " ".join(block), False


def is_fragment(text: str) -> bool:
    word = text.partition(" ")[0].rstrip(".,:;'s")
    return text[:1].islower() and word not in LOWERCASE_NAMES and not re.search(r"[_.`(=/\d]", word)


if __name__ == "__main__":
    sys.exit(main())
