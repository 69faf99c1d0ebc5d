"""The results as a picture: one group of bars per kind of request, each on its own scale."""

from bench.load import WORKS, Work
from bench.measure import Row

PEERS = {"fastapi": "#d97706", "bare": "#94a3b8", "fastify": "#16a34a", "go": "#0891b2", "depot": "#2563eb"}
WIDTH, LEFT, RIGHT = 760, 170, 150
BAR, GAP, GROUP, TOP = 13, 2, 14, 56
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #334155 } .title { font-weight: 600; font-size: 14px }
.strong { font-weight: 600 } @media (prefers-color-scheme: dark) { text { fill: #cbd5e1 } }"""


def chart(rows: list[Row]) -> str:
    """Return an SVG of the CPU that each peer uses per request, with one process each."""
    measured = {(row.work, row.peer): row.service_cpu_us for row in rows if row.workers == 1}
    parts, y = [*_legend()], TOP
    for work in WORKS.values():
        bars = {peer: measured[work.name, peer] for peer in PEERS if (work.name, peer) in measured}
        if bars:
            parts += _group(work, bars, y)
            y += len(bars) * (BAR + GAP) + GROUP
    size = f'width="{WIDTH}" height="{y}" viewBox="0 0 {WIDTH} {y}"'
    body = "\n".join(parts)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">'
    return f"{head}\n<style>{STYLE}</style>\n{body}\n</svg>\n"


def _legend() -> list[str]:
    parts = [_text(0, 16, "CPU of the service for one request, in µs: shorter is better", "title")]
    for position, (peer, colour) in enumerate(PEERS.items()):
        x = LEFT + position * 90
        parts += [f'<rect x="{x}" y="29" width="12" height="12" fill="{colour}"/>', _text(x + 18, 40, peer)]
    return parts


def _group(work: Work, bars: dict[str, float], y: int) -> list[str]:
    longest = max(bars.values())
    parts = [_text(0, y + 11, f"{work.title} × {work.connections}")]
    for position, (peer, microseconds) in enumerate(bars.items()):
        top = y + position * (BAR + GAP)
        width = (WIDTH - LEFT - RIGHT) * microseconds / longest
        rect = f'x="{LEFT}" y="{top}" width="{width:.1f}" height="{BAR}" fill="{PEERS[peer]}"'
        style = "strong" if peer == "depot" else ""
        parts += [f"<rect {rect}/>", _text(LEFT + width + 6, top + 11, _label(peer, bars), style)]
    return parts


def _label(peer: str, bars: dict[str, float]) -> str:
    if peer == "depot" and "fastapi" in bars:
        return f"{bars[peer]:,.0f} ({bars['fastapi'] / bars[peer]:.1f} × less)"
    return f"{bars[peer]:,.0f}"


def _text(x: float, y: float, text: str, style: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.0f}" class="{style}">{text}</text>'
