"""A report as CSV or JSON, written row by row, so that millions of rows need little memory."""

import csv
import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, TextIO

from gatehouse.usage_report.answer import COLUMNS, Row, Stray, figures
from gatehouse.usage_report.question import Question

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write_csv(question: Question, rows: Iterable[Row], to: TextIO) -> None:
    """A header and the rows, without a total: summing a column would count it twice."""
    sheet = csv.writer(to, lineterminator="\n")
    sheet.writerow([*question.by, *COLUMNS])
    for row in rows:
        said = figures(row) | {"cost_usd": f"{row.cost_usd:.6f}"}
        sheet.writerow([*map(cell, row.group), *said.values()])


def write_json(question: Question, rows: Iterable[Row], total: Row, strays: Sequence[Stray], to: TextIO) -> None:
    """One object: what was asked, `rows`, their `total`, and the lines that were `skipped`, by file."""
    asked = {"by": question.by, "since": _instant(question.since), "until": _instant(question.until)}
    to.write(json.dumps(asked | {"only": dict(question.only)})[:-1] + ', "rows": [')
    for i, row in enumerate(rows):
        named: dict[str, Any] = dict(zip(question.by, row.group, strict=True))
        to.write((", " if i else "") + json.dumps(named | figures(row)))
    skipped = {stray.file: stray.lines for stray in strays}
    to.write(f'], "total": {json.dumps(figures(total))}, "skipped": {json.dumps(skipped)}}}\n')


def cell(value: str | int | None) -> str | int:
    """Clients choose names of models and paths: no spreadsheet may run them as formulas (OWASP, "CSV Injection")."""
    if value is None:
        return ""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _instant(value: datetime | None) -> str | None:
    return value.isoformat() if value else None
