"""Types shared by all schemas: money, currencies, times, JSON numbers."""

import csv
import hashlib
import io
import re
from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal, InvalidOperation
from itertools import accumulate
from typing import Annotated, Literal, Protocol

import msgspec
from msgspec import Meta

Version = Annotated[int, Meta(ge=1, le=2_147_483_647)]

Count = Annotated[int, Meta(ge=0, le=2**53 - 1)]
"""Integers that every JSON parser reads exactly (RFC 7493 §2.2)."""

Timestamp = Annotated[datetime, Meta(tz=True)]
"""RFC 3339, always UTC with `Z`."""

Money = Annotated[
    str,
    Meta(
        pattern=r"^(0|[1-9][0-9]{0,9})([.][0-9]{1,2})?\Z",
        examples=["9.99"],
        extra={
            "expected": 'a decimal string such as "9.99", from 0 to 9999999999.99 with at most two decimals'
        },
    ),
]
"""0 to 9999999999.99 with at most its currency's decimals; no sign, no exponent, no NaN."""

Total = Annotated[str, Meta(pattern=r"^[0-9]+([.][0-9]{2})?\Z", examples=["19.98"])]
"""A computed amount; sums can be larger than any price."""


def path_id_pattern(characters: str, length_max: int) -> str:
    """Return the pattern of an id in a path, of a class of characters that contains the dot.

    It excludes "." and "..", which clients remove from a path before they send it (RFC 3986 §5.2.4).
    """
    others = characters.replace(".", "")
    return rf"^([{characters}]{{3,{length_max}}}|[{others}][{characters}]?|[.][{others}])\Z"


# fmt: off
Currency = Literal[
    "AED", "AFN", "ALL", "AMD", "AOA", "ARS", "AUD", "AWG", "AZN", "BAM", "BBD", "BDT", "BIF",
    "BMD", "BND", "BOB", "BRL", "BSD", "BTN", "BWP", "BYN", "BZD", "CAD", "CDF", "CHF", "CLP", "CNY",
    "COP", "CRC", "CUP", "CVE", "CZK", "DJF", "DKK", "DOP", "DZD", "EGP", "ERN", "ETB", "EUR", "FJD",
    "FKP", "GBP", "GEL", "GHS", "GIP", "GMD", "GNF", "GTQ", "GYD", "HKD", "HNL", "HTG", "HUF", "IDR",
    "ILS", "INR", "IRR", "ISK", "JMD", "JPY", "KES", "KGS", "KHR", "KMF", "KPW", "KRW",
    "KYD", "KZT", "LAK", "LBP", "LKR", "LRD", "LSL", "MAD", "MDL", "MGA", "MKD", "MMK",
    "MNT", "MOP", "MRU", "MUR", "MVR", "MWK", "MXN", "MYR", "MZN", "NAD", "NGN", "NIO", "NOK", "NPR",
    "NZD", "PAB", "PEN", "PGK", "PHP", "PKR", "PLN", "PYG", "QAR", "RON", "RSD", "RUB", "RWF",
    "SAR", "SBD", "SCR", "SDG", "SEK", "SGD", "SHP", "SLE", "SOS", "SRD", "SSP", "STN", "SVC", "SYP",
    "SZL", "THB", "TJS", "TMT", "TOP", "TRY", "TTD", "TWD", "TZS", "UAH", "UGX", "USD", "UYU",
    "UZS", "VES", "VND", "VUV", "WST", "XAF", "XCD", "XCG", "XOF", "XPF", "YER", "ZAR", "ZMW", "ZWG",
]
# fmt: on
"""ISO 4217 codes of circulating currencies, as of 2026, without those of three decimals."""

WITHOUT_DECIMALS = {
    *("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW"),
    *("PYG", "RWF", "UGX", "VND", "VUV", "XAF", "XOF", "XPF"),
}
"""Currencies without a minor unit. The database's function `decimals` knows the same."""


def price_problem(price: str, currency: str) -> str | None:
    """Return an error text if a price has more decimals than its currency, else None."""
    if "." in price and currency in WITHOUT_DECIMALS:
        return f"must have no decimals, because {currency} has none"
    return None


def format_amount(amount: Decimal, currency: str) -> str:
    """Return an amount with its currency's decimals, and never less than its value."""
    whole = currency in WITHOUT_DECIMALS and amount == amount.to_integral_value()
    return f"{amount:.0f}" if whole else f"{amount:.2f}"


NUMBER_DIGITS_MAX = 308
NUMBER_MAX = Decimal("1e308")
INTEGER_MAX = 10**308
FRACTION_DIGITS_MAX = 4300
NUMBER_RANGE_MESSAGE = "numbers must be between -1e308 and 1e308, and not closer to 0 than 1e-308"
SHORT_NUMBER_LENGTH = 300
"""A number without an exponent that is not longer is in the range of a double."""
DEPTH_MAX = 128
"""Maximum nesting of JSON: far below Python's recursion limit, so that the whole service can read it."""

STRINGS = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
LONGEST_EXPANSION = 64
"""Times that a number grows at most when its exponent is expanded: `1e308` has 5 bytes, and then 309."""
LARGE_EXPONENTS = re.compile(rb"[eE][+]?0*+([1-9][0-9]{1,2})")


def parse_exact_number(text: str) -> Decimal:
    """Parse a JSON number with a fraction or exponent, keeping all digits.

    A positive exponent is expanded, so that the number's length is its stored length.
    """
    try:
        number = Decimal(text)
    except InvalidOperation:  # the exponent is beyond that of Decimal
        return Decimal("Infinity")
    if not _has_exponent(text):
        return number
    return Decimal(f"{number:f}") if "E+" in str(number) and is_storable(number) else number


encode_json = msgspec.json.Encoder(decimal_format="number").encode
decode_json = msgspec.json.Decoder(float_hook=parse_exact_number).decode
"""JSON numbers keep every digit: 1.10 stays 1.10."""
stored_form = msgspec.json.Encoder(decimal_format="number", order="deterministic").encode
"""A JSON value as PostgreSQL stores it, to compare by: in Python 0 equals False, and 1.5 equals 1.50."""


def encode_csv(rows: Iterable[Iterable[object]]) -> str:
    """Return the rows as CSV (RFC 4180)."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue()


def size_problem(document: object, bytes_max: int) -> str | None:
    """Return an error text if the encoded document is larger than `bytes_max`, else None."""
    if document and len(encode_json(document)) > bytes_max:
        return f"must be at most {bytes_max} bytes of JSON"
    return None


def text_size_problem(text: bytes, bytes_max: int) -> str | None:
    """Return an error text if valid JSON is larger than `bytes_max`, else None.

    Whitespace and escapes do not count. It decodes nothing: 250 KB of `1e308` would expand to 13 MB and block
    the event loop for a second.
    """
    if len(text) > bytes_max // LONGEST_EXPANSION:
        compact = msgspec.json.format(text, indent=-1)
        size = len(compact) - 5 * compact.count(b"\\u")
        if size > bytes_max or size + _expansion(compact) > bytes_max:
            return f"must be at most {bytes_max} bytes of JSON"
    return None


def _expansion(text: bytes) -> int:
    """Return about how many digits the exponents in a JSON text add. Exponents below 10 do not count."""
    exponents = LARGE_EXPONENTS.findall(STRINGS.sub(b"", text))
    return sum(min(int(exponent), NUMBER_DIGITS_MAX) for exponent in exponents)


def nesting(text: bytes) -> int:
    """Return how deep arrays and objects are nested in JSON, or 0 if that is certainly within `DEPTH_MAX`."""
    if text.count(b"[") + text.count(b"{") <= DEPTH_MAX:
        return 0
    brackets = STRINGS.sub(b"", text).translate(None, delete=NOT_BRACKETS)
    return max(accumulate(1 if bracket in b"[{" else -1 for bracket in brackets), default=0)


def parse_client_number(text: str) -> Decimal:
    """Parse a number from a client. Raises `ValueError` outside the range of a double.

    1e99999 is seven bytes in a request, but a hundred thousand digits in PostgreSQL and in every reply.
    """
    number = parse_exact_number(text)
    if (len(text) > SHORT_NUMBER_LENGTH or _has_exponent(text)) and not is_storable(number):
        raise ValueError(NUMBER_RANGE_MESSAGE)
    return number


def is_storable(number: Decimal | int) -> bool:
    if isinstance(number, int):
        return abs(number) <= INTEGER_MAX
    if not number.is_finite() or abs(number.adjusted()) > NUMBER_DIGITS_MAX:
        return False
    if number.adjusted() == NUMBER_DIGITS_MAX and abs(number) > NUMBER_MAX:
        return False
    return len(number.as_tuple().digits) <= FRACTION_DIGITS_MAX


def _has_exponent(text: str) -> bool:
    return "e" in text or "E" in text


class Versioned(Protocol):
    """A resource whose version changes with every update."""

    version: int


def content_tag(body: bytes) -> str:
    """Return the entity tag of content without a version, which is the encoded body."""
    return hashlib.blake2b(body, digest_size=16).hexdigest()


def reply_headers(version: int, location: str | None = None) -> dict[str, str]:
    """Return the headers of a reply with a versioned resource."""
    headers = {"ETag": f'"{version}"'}
    return headers if location is None else {**headers, "Location": location}
