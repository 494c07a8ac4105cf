"""A report on a terminal: a table, and bars."""

from collections.abc import Iterable, Sequence

from rich.bar import Bar
from rich.table import Table

from gatehouse.usage_report.answer import Row
from gatehouse.usage_report.question import Question

_HEADINGS = (
    "requests",
    "errors",
    "limited",
    "prompt",
    "completion",
    "cached",
    "USD",
    "TTFT p50/p95",
    "time p50/p95",
)
_BAR_WIDTH = 40
_MOST_LETTERS = 60


def table(question: Question, rows: Iterable[Row], total: Row) -> Table:
    """A line for each row, and one for the total of all rows."""
    shown = Table(box=None, pad_edge=False)
    for name in question.by:
        shown.add_column(name, overflow="fold", max_width=_MOST_LETTERS)
    for heading in _HEADINGS:
        shown.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        shown.add_row(*map(label, row.group), *_cells(row))
    first = ["total", *[""] * (len(question.by) - 1)] if question.by else []
    shown.add_row(*first, *_cells(total), style="bold")
    return shown


def bars(question: Question, rows: Sequence[Row]) -> Table:
    """A bar for each row, as long as its share of the longest."""
    values = [getattr(row, question.measure) for row in rows]
    longest = max(values, default=0)
    shown = Table(box=None, pad_edge=False, show_header=False)
    for row, value in zip(rows, values, strict=True):
        name = " ".join(map(label, row.group)) or "total"
        bar = Bar(longest or 1, 0, value, width=_BAR_WIDTH, color="cyan")
        shown.add_row(name, bar, f"{value:,.2f}" if question.measure == "cost_usd" else f"{value:,}")
    return shown


def label(value: str | int | None) -> str:
    """A value of a dimension. Clients choose these: they must not act as terminal escapes or markup."""
    if value is None or value == "":
        return "-"
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(value))
    return text.replace("[", r"\[")


def _cells(row: Row) -> list[str]:
    counts = (row.requests, row.errors, row.limited, row.prompt_tokens, row.completion_tokens, row.cached_tokens)
    first_token = f"{_time(row.ttft_p50_ms)} / {_time(row.ttft_p95_ms)}"
    duration = f"{_time(row.duration_p50_ms)} / {_time(row.duration_p95_ms)}"
    return [*(f"{count:,}" for count in counts), f"{row.cost_usd:,.2f}", first_token, duration]


def _time(milliseconds: float | None) -> str:
    if milliseconds is None:
        return "-"
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms"
    return f"{milliseconds / 1000:.1f} s"
