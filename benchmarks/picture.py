"""The picture of the results: a bar for each ratio, its mark as a line; SVG without a library.

The colours are such that they can be read on a light and on a dark background.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH = 880
LABEL_WIDTH, BAR_WIDTH = 340, 330
TOP, ROW, BAR, FOOT = 34, 34, 14, 26
INK, MET, MISSED = "#7a7f87", "#3b82c4", "#d9730d"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A ratio, the span of its rounds, and the least that it should be."""

    benchmark: str
    name: str
    value: float
    low: float
    high: float
    mark: float


def draw(bars: Sequence[Bar]) -> str:
    """An SVG document, 880 wide."""
    height = TOP + ROW * len(bars) + FOOT
    scale = BAR_WIDTH / max(1.0, *(max(bar.high, bar.mark) for bar in bars)) if bars else BAR_WIDTH
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" role="img" font-family="system-ui, sans-serif" '
        'font-size="13">',
        "<title>What make bench measured: each ratio, and its mark</title>",
        _text(0, 16, "Ratios to something plain that did the same work in the same run"),
    ]
    for number, bar in enumerate(bars):
        parts += _row(bar, top=TOP + ROW * number, scale=scale)
    foot = "bar: median of the rounds; thin line: lowest to highest; upright line: the mark"
    parts += [_text(LABEL_WIDTH, height - 8, foot, size=11), "</svg>"]
    return "\n".join(parts) + "\n"


def _row(bar: Bar, *, top: int, scale: float) -> Iterator[str]:
    def x(value: float) -> float:
        return LABEL_WIDTH + value * scale

    is_met = bar.value >= bar.mark
    middle, said = top + ROW // 2, "met" if is_met else "missed"
    told = f"{bar.value:.2f}, at least {bar.mark:.2f}: {said}"
    base = middle + 5
    yield _text(0, base, f"{bar.benchmark}: {bar.name}")
    yield _box(LABEL_WIDTH, middle - BAR // 2, bar.value * scale, BAR, MET if is_met else MISSED)
    yield _box(x(bar.low), middle - 1, max((bar.high - bar.low) * scale, 1.0), 2, INK)
    yield _box(x(bar.mark) - 1, middle - BAR, 2, 2 * BAR, INK)
    yield _text(LABEL_WIDTH + BAR_WIDTH + 12, base, told)


def _box(x: float, y: float, width: float, height: float, fill: str) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{fill}"/>'
    )


def _text(x: float, y: float, said: str, *, size: int = 13) -> str:
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{INK}">{escape(said)}</text>'
