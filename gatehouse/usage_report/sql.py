"""Questions as SQL for DuckDB. Pure; what users write is a parameter, never part of a statement.

Requests are counted in two steps. The first reads the logs and counts by group and by bucket of latency, twice: by time
to first token and by duration. A bucket is 2 % wide. The second sums the buckets up, and finds percentiles by walking
along them. So memory goes by groups and not by requests, and sums and percentiles do not depend on how threads ran.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

from gatehouse.usage_report.question import Question

_UTC = "time AT TIME ZONE 'UTC'"
_DIMENSIONS = {
    "user": "user_id",
    "team": "team",
    "tier": "tier",
    "model": "model",
    "key": "key_id",
    "endpoint": "endpoint",
    "status": "status",
    "day": f"strftime(CAST({_UTC} AS DATE), '%Y-%m-%d')",
    "hour": f"strftime(date_trunc('hour', {_UTC}), '%Y-%m-%dT%H:00Z')",
    "backend": "backend",
}
COLUMNS = {
    "time": "TIMESTAMPTZ",
    "request_id": "VARCHAR",
    "user_id": "VARCHAR",
    "team": "VARCHAR",
    "tier": "VARCHAR",
    "key_id": "VARCHAR",
    "endpoint": "VARCHAR",
    "model": "VARCHAR",
    "backend": "VARCHAR",
    "status": "INTEGER",
    "error_code": "VARCHAR",
    "prompt_tokens": "BIGINT",
    "completion_tokens": "BIGINT",
    "cached_tokens": "BIGINT",
    "cost_usd": "DOUBLE",
    "duration_ms": "DOUBLE",
    "ttft_ms": "DOUBLE",
    "attempts": "INTEGER",
    "bytes_in": "BIGINT",
    "bytes_out": "BIGINT",
    "limited_by": "VARCHAR",
    "aborted": "BOOLEAN",
    "max_tokens": "BIGINT",
    "n": "BIGINT",
    "prompt_bytes": "BIGINT",
    "images": "BIGINT",
}
"""Fields of a line that are read, and as what. Lines of older versions lack the last."""

_STEPS = 50
"""Buckets for each factor of e: a bucket is 2 % wide, and its middle within 1 % of what is in it."""


@dataclass(frozen=True, slots=True)
class Statement:
    text: str
    parameters: Mapping[str, Any]


def counting(question: Question, files: Sequence[Path]) -> Statement:
    """The first step: the table `counted`. Lines that are no records stand in it under `stray`, their file."""
    groups = [f"d{i}" for i in range(len(question.by))]
    conditions, parameters = _conditions(question)
    text = f"""
        CREATE TABLE counted AS
        WITH records AS (
            SELECT *, {_STRAY} AS stray, {_bucket("ttft_ms")} AS ttft, {_bucket("duration_ms")} AS duration
                {"".join(f", {_DIMENSIONS[name]} AS d{i}" for i, name in enumerate(question.by))}
            FROM {_lines(COLUMNS)}
        )
        SELECT stray{_listed(groups)}, coalesce(ttft, duration) AS bucket, grouping(ttft) = 1 AS by_duration,
            count(*) AS requests,
            count(*) FILTER ((status >= 400 OR error_code IS NOT NULL) AND limited_by IS NULL) AS errors,
            count(limited_by) AS limited,
            coalesce(sum(prompt_tokens), 0) AS prompt_tokens,
            coalesce(sum(completion_tokens), 0) AS completion_tokens,
            coalesce(sum(cached_tokens), 0) AS cached_tokens,
            coalesce(sum(TRY_CAST(round(cost_usd * 1e6) AS BIGINT)), 0) AS cost_micro_usd
        FROM records
        WHERE stray IS NOT NULL OR ({" AND ".join(["true", *conditions])})
        GROUP BY GROUPING SETS ((stray{_listed(groups)}, ttft), (stray{_listed(groups)}, duration))"""
    return Statement(text, {"files": _paths(files), **parameters})


def rows(question: Question) -> Statement:
    """The second step: a row for each group, in the order to show them."""
    groups = [f"d{i}" for i in range(len(question.by))]
    return Statement(f"SELECT * FROM ({_summed(groups)}) ORDER BY {_order(question, groups)}", {})


def total() -> Statement:
    """The second step, for everything at once."""
    return Statement(_summed([]), {})


STRAYS = (
    "SELECT stray, sum(requests) FROM counted WHERE stray IS NOT NULL AND NOT by_duration GROUP BY ALL ORDER BY ALL"
)


def by_start(columns: Mapping[str, str], files: Sequence[Path]) -> Statement:
    """Records in the order in which their requests began; strays, which have no time, come first.

    `columns` are SQL expressions over `COLUMNS`, by what to call them; they are this program's own.
    """
    chosen = ", ".join(f"{expression} AS {name}" for name, expression in columns.items())
    text = f"SELECT {_STRAY} AS stray, {chosen} FROM {_lines(COLUMNS)} ORDER BY stray NULLS LAST, time, request_id"
    return Statement(text, {"files": _paths(files)})


_STRAY = "CASE WHEN time IS NULL OR status IS NULL THEN filename END"


def _lines(columns: Mapping[str, str]) -> str:
    """Lines that are not JSON, or no object, become rows of nothing."""
    typed = ", ".join(f"{name}: '{kind}'" for name, kind in columns.items())
    options = "format = 'newline_delimited', ignore_errors = true, filename = true"
    return f"read_json($files, columns = {{{typed}}}, {options})"


def _paths(files: Sequence[Path]) -> list[str]:
    """DuckDB takes every path for a pattern, and what has a scheme for an address."""
    return [escape(str(file.absolute())) for file in files]


def _conditions(question: Question) -> tuple[list[str], dict[str, Any]]:
    conditions, parameters = [], dict[str, Any]()
    for i, (name, values) in enumerate(question.only.items()):
        conditions.append(f"list_contains($only{i}, CAST({_DIMENSIONS[name]} AS VARCHAR))")
        parameters[f"only{i}"] = list(values)
    for name, operator in (("since", ">="), ("until", "<")):
        if (bound := getattr(question, name)) is not None:
            conditions.append(f"time {operator} ${name}")
            parameters[name] = bound
    return conditions, parameters


def _bucket(column: str) -> str:
    return f"CASE WHEN {column} IS NOT NULL THEN CAST(round(ln(greatest({column}, 0.001)) * {_STEPS}) AS INTEGER) END"


def _listed(names: Sequence[str]) -> str:
    return "".join(f", {name}" for name in names)


def _summed(groups: Sequence[str]) -> str:
    together = f"PARTITION BY by_duration, bucket IS NULL{_listed(groups)}"
    sums = ["requests", "errors", "limited", "prompt_tokens", "completion_tokens", "cached_tokens", "cost_micro_usd"]
    selected = [*groups, *(f"coalesce(sum({s}) FILTER (NOT by_duration), 0) AS {s}" for s in sums)]
    for name, which in (("ttft", "NOT by_duration"), ("duration", "by_duration")):
        selected += [f"{_percentile(which, share)} AS {name}_p{share}_ms" for share in (50, 95)]
    return f"""
        SELECT {", ".join(selected)}
        FROM (
            SELECT *, sum(requests) OVER ({together} ORDER BY bucket) AS upto, sum(requests) OVER ({together}) AS all_of
            FROM counted WHERE stray IS NULL
        ) {f"GROUP BY {', '.join(groups)}" if groups else ""}"""


def _percentile(which: str, share: int) -> str:
    """By the nearest rank: the least value that at least `share` per cent do not exceed."""
    reached = f"{which} AND bucket IS NOT NULL AND upto * 100 >= all_of * {share}"
    return f"round(exp(min(bucket) FILTER ({reached}) / {_STEPS}.0), 3)"


def _order(question: Question, groups: Sequence[str]) -> str:
    measures = {"tokens": "prompt_tokens + completion_tokens", "cost_usd": "cost_micro_usd"}
    most = f"{measures.get(question.measure, question.measure)} DESC"
    return ", ".join([*groups[: question.in_order], most, *groups[question.in_order :]])
