"""Tests that no regular expression takes more than linear time on adversarial input of the maximum size."""

import pkgutil
import re
from collections.abc import Iterator
from importlib import import_module
from itertools import product
from time import process_time
from typing import Any

import pytest

import service
from service.settings import Settings
from tests.support.openapi_document import published_document

CPU_SECONDS_MAX = 0.25
"""A quadratic expression takes seconds at this size."""
SIZE = Settings().head_bytes_max
TOKEN = re.compile(r"\\?[!-~ ]")
EXEMPT = {"service.documents.pdf", "service.documents.jpeg"}
"""Applied to files in a worker thread, with tests of their own."""


def patterns_of_modules() -> Iterator[tuple[str, re.Pattern[Any]]]:
    for module in pkgutil.walk_packages(service.__path__, "service."):
        if module.name.endswith("__main__") or module.name in EXEMPT:
            continue
        for name, value in vars(import_module(module.name)).items():
            if isinstance(value, re.Pattern):
                yield f"{module.name}.{name}", value


def patterns_of_schemas(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(schema.get("pattern"), str):
            yield schema["pattern"].replace(r"\Z", "$")
        schema = list(schema.values())
    if isinstance(schema, list):
        for part in schema:
            yield from patterns_of_schemas(part)


def all_patterns() -> dict[str, re.Pattern[Any]]:
    by_text = {pattern.pattern: (name, pattern) for name, pattern in patterns_of_modules()}
    published = {text: (text, re.compile(text)) for text in patterns_of_schemas(published_document())}
    return dict({**published, **by_text}.values())


PATTERNS = all_patterns()


def adversarial(pattern: re.Pattern[Any]) -> Iterator[str]:
    """Yield short texts, made of the expression's own characters, that are dangerous when repeated."""
    text = pattern.pattern if isinstance(pattern.pattern, str) else pattern.pattern.decode("latin-1")
    literals = re.findall(r"[A-Za-z_]{3,}|(?:\\?[^\w\\[\](){}|?*+^$.-]){2,}", text)
    characters = {token[-1] for token in TOKEN.findall(text) if not token[-1].isalnum()} | set(
        ' a0A:/;="\x00é'
    )
    yield from characters
    yield from literals
    for literal, character in product(literals, characters):
        yield literal + character
    yield "0" * 300 + "x"


@pytest.mark.parametrize("name", PATTERNS)
def test_an_expression_takes_linear_time(name: str) -> None:
    pattern = PATTERNS[name]
    for unit, prefix in product(adversarial(pattern), ("", "depot_/")):
        text = prefix + unit * (SIZE // len(unit)) + "\n"
        subject = text if isinstance(pattern.pattern, str) else text.encode()
        started_at = process_time()
        for _ in pattern.finditer(subject):
            pass
        assert process_time() - started_at < CPU_SECONDS_MAX, (pattern.pattern, prefix, unit)
