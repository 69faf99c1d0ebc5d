"""A cache of what Litestar derives from a handler's signature, for all applications of a test process.

Litestar parses the annotations of each handler and builds a msgspec model of them in every `create_app`,
which is half of its time. Both are functions of the handler's code alone, so the cache carries nothing from
one application to another.
"""

from collections.abc import Hashable
from typing import Any

from litestar._signature import SignatureModel
from litestar.utils.signature import ParsedSignature


def install() -> None:
    _cache_signatures()
    _cache_models()


def _cache_signatures() -> None:
    parse: Any = ParsedSignature.from_fn
    cache: dict[Hashable, ParsedSignature] = {}

    def from_fn(_: Any, fn: Any, signature_namespace: dict[str, Any]) -> ParsedSignature:
        names = tuple(sorted((name, id(value)) for name, value in signature_namespace.items()))
        key = (_code(fn), names)
        if key not in cache:
            cache[key] = parse(fn, signature_namespace)
        return cache[key]

    ParsedSignature.from_fn = classmethod(from_fn)  # type: ignore[assignment, method-assign]


def _cache_models() -> None:
    create: Any = SignatureModel.create
    cache: dict[Hashable, tuple[Any, ParsedSignature]] = {}

    def create_once(
        _: Any,
        dependency_name_set: set[str],
        fn: Any,
        parsed_signature: ParsedSignature,
        type_decoders: Any,
        data_dto: Any = None,
    ) -> Any:
        decoders = tuple(_code(function) for pair in type_decoders or () for function in pair)
        key = (_code(fn), id(parsed_signature), frozenset(dependency_name_set), decoders, data_dto)
        if key not in cache:
            model = create(dependency_name_set, fn, parsed_signature, type_decoders, data_dto)
            cache[key] = model, parsed_signature  # the entry holds the signature, so its id is not reused
        return cache[key][0]

    SignatureModel.create = classmethod(create_once)  # type: ignore[assignment, method-assign]


def _code(function: Any) -> Hashable:
    """Return a key that is equal for methods of several instances and for closures of one function."""
    function = getattr(function, "__func__", function)
    function = getattr(function, "func", function)
    return getattr(function, "__code__", function), getattr(function, "__defaults__", None)
