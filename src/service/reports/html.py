"""Render the financial report as one HTML page: bars per day, no script, no outside asset, dark and light."""

from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from decimal import Decimal
from html import escape
from math import ceil, floor, log10
from typing import NamedTuple

from service.reports.schemas import CurrencyTotal, Day, FinancialReport, TopItem

HEIGHT, LEFT, RIGHT, BOTTOM, TOP = 280, 48, 12, 28, 12
TICKS = 4
BAR_WIDTH_MAX = 56.0
DAYS_WITHOUT_YEAR = 366


class Frame(NamedTuple):
    """A chart size; CSS selects the one to show."""

    name: str
    width: int
    labels_max: int


FRAMES = (Frame("wide", 960, 10), Frame("narrow", 340, 4))

STYLE = """
:root { color-scheme: light dark; --ground: #fbfaf8; --card: #fff; --ink: #1d2330; --faint: #6b7280;
  --line: #e5e2dc; --net: #2f6f6a; --refund: #d98a5b; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171c; --card: #1c2027; --ink: #e8eaee;
  --faint: #98a1b0; --line: #2c323c; --net: #5fb3aa; --refund: #e3a079; } }
* { box-sizing: border-box } body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; font-variant-numeric: tabular-nums }
main { max-width: 1040px; margin: 0 auto; padding: 40px 20px 64px }
h1 { font-size: 26px; margin: 0 } h2 { font-size: 18px; margin: 0 0 12px } p { margin: 4px 0 0 }
.faint, th, text { color: var(--faint); fill: var(--faint) }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 24px;
  margin-top: 24px }
dl { display: flex; flex-wrap: wrap; gap: 12px 48px; margin: 0 0 20px }
dt { color: var(--faint); font-size: 14px } dd { margin: 0; font-size: 24px; font-weight: 600 }
svg { display: block; width: 100%; height: auto; overflow: visible } .narrow { display: none }
text { font-size: 12px } .day { text-anchor: middle } .grid { stroke: var(--line) }
.net { fill: var(--net) } .refund { fill: var(--refund) }
.key { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin: 0 6px 0 16px }
.key.net { background: var(--net); margin-left: 0 } .key.refund { background: var(--refund) }
table { width: 100%; border-collapse: collapse } th { text-align: left; font-weight: 500; font-size: 14px }
th, td { padding: 8px 0; border-bottom: 1px solid var(--line) } .number { text-align: right }
tr:last-child td { border: 0 }
@media (max-width: 640px) { .wide { display: none } .narrow { display: block }
  main { padding: 24px 12px 40px } section { padding: 18px 16px; margin-top: 16px }
  dl { display: grid; grid-template-columns: 1fr 1fr; gap: 12px } dd { font-size: 20px } }
"""


def render_page(report: FinancialReport) -> str:
    """Return the report as a complete HTML document."""
    last = report.to - timedelta(days=1)
    sections = "".join(_currency(report, total) for total in report.totals)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Financial report {report.from_} to {last}</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head><body><main>
<h1>Financial report</h1>
<p class="faint">{_day(report.from_)} to {_day(last)}, days in UTC,
as of {report.generated_at:%Y-%m-%d %H:%M} UTC</p>
{sections or '<section><p class="faint">There were no sales or refunds in this period.</p></section>'}
{_top_items(report.top_items)}
</main></body></html>
"""


def _currency(report: FinancialReport, total: CurrencyTotal) -> str:
    figures = {
        "Orders": f"{total.orders:,}",
        "Sales": _money(total.sales),
        "Refunds": _money(total.refunds),
        "Net": _money(total.net),
    }
    cards = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in figures.items())
    days = [day for day in report.daily if day.currency == total.currency]
    charts = "".join(_chart(frame, report.from_, report.to, days) for frame in FRAMES)
    return f"""<section><h2>{escape(total.currency)}</h2><dl>{cards}</dl>
{charts}
<p class="faint"><span class="key net"></span>sales<span class="key refund"></span>refunds</p></section>"""


def _chart(frame: Frame, begin: date, end: date, days: Sequence[Day]) -> str:
    """Draw sales above the axis and refunds below."""
    count = (end - begin).days
    high = max((Decimal(day.sales) for day in days), default=Decimal(0))
    low = max((Decimal(day.refunds) for day in days), default=Decimal(0))
    step = _step(float(max(high, low, Decimal("0.01"))))
    top, bottom = step * ceil(float(high) / step), step * ceil(float(low) / step)
    scale = (HEIGHT - TOP - BOTTOM) / ((top + bottom) or step)
    zero = TOP + top * scale
    slot = (frame.width - LEFT - RIGHT) / count
    parts = [*_grid(frame, step, top, bottom, zero, scale)]
    for number in range(count - 1, -1, -max(1, ceil(count / frame.labels_max))):
        x, labeled = LEFT + (number + 0.5) * slot, begin + timedelta(days=number)
        label = labeled.day if count <= DAYS_WITHOUT_YEAR else labeled.year
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 8}" class="day">{labeled:%b} {label}</text>')
    for day in days:
        parts += _bars(day, LEFT + ((day.date - begin).days + 0.5) * slot, slot, zero, scale)
    return (
        f'<svg class="{frame.name}" viewBox="0 0 {frame.width} {HEIGHT}" role="img" '
        f'aria-label="Sales and refunds">{"".join(parts)}</svg>'
    )


def _bars(day: Day, middle: float, slot: float, zero: float, scale: float) -> Iterator[str]:
    width = min(max(slot * 0.72, 0.5), BAR_WIDTH_MAX)
    amounts = f"{day.orders:,} orders, sales {_money(day.sales)}, refunds {_money(day.refunds)}"
    title = f"<title>{_day(day.date)}: {amounts}</title>"
    for name, amount, up in (("net", day.sales, True), ("refund", day.refunds, False)):
        height = float(amount) * scale
        if height:
            y = zero - height if up else zero
            yield (
                f'<rect class="{name}" x="{middle - width / 2:.1f}" y="{y:.1f}" width="{width:.1f}" '
                f'height="{height:.1f}" rx="{min(2.0, width / 4):.1f}">{title}</rect>'
            )


def _grid(frame: Frame, step: float, top: float, bottom: float, zero: float, scale: float) -> Iterator[str]:
    for number in range(-round(bottom / step), round(top / step) + 1):
        y = zero - number * step * scale
        yield f'<line class="grid" x1="{LEFT}" x2="{frame.width}" y1="{y:.1f}" y2="{y:.1f}"/>'
        sign = "\N{MINUS SIGN}" if number < 0 else ""
        amount = sign + _short(abs(number) * step)
        yield f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{amount}</text>'


def _top_items(items: list[TopItem]) -> str:
    if not items:
        return ""
    rows = "".join(
        f"<tr><td>{item.currency}</td><td>{escape(item.sku)}</td>"
        f'<td class="number">{item.quantity:,}</td>'
        f'<td class="number">{_money(item.amount)}</td></tr>'
        for item in items
    )
    return f"""<section><h2>Top items</h2><table>
<thead><tr><th>Currency</th><th>SKU</th><th class="number">Units</th>
<th class="number">Amount</th></tr></thead><tbody>{rows}</tbody></table></section>"""


def _step(high: float) -> float:
    """Return a tick step of 1, 2 or 5 times a power of ten that gives about `TICKS` ticks."""
    rough = high / TICKS
    power: float = 10.0 ** floor(log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)


def _short(amount: float) -> str:
    for size, name in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if amount >= size:
            return f"{amount / size:g}{name}"
    return f"{amount:g}"


def _money(amount: str) -> str:
    return f"{Decimal(amount):,f}"


def _day(day: date) -> str:
    return f"{day:%B} {day.day}, {day.year}"
