"""Runs statements over log files, in a temporary DuckDB."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gatehouse.contract.failures import GatehouseError
from gatehouse.files.private_dir import private_directory
from gatehouse.usage_report import sql
from gatehouse.usage_report.answer import Row, Stray
from gatehouse.usage_report.question import Question
from gatehouse.usage_report.sql import Statement

if TYPE_CHECKING:
    import duckdb

MEMORY = "1GB"
"""Memory for DuckDB; what does not fit is spilled to a temporary directory."""
_MAX_THREADS = 8
"""Each reads with buffers of 64 MB."""
_LOOK_S = 0.1
_BATCH = 10_000

OnProgress = Callable[[float], None]
"""Called now and then with the share of the logs that is read, in per cent."""


class UnreadableLogsError(GatehouseError):
    """A log can't be read to its end. The message says which one, and what to do."""


class Report:
    """The result, valid within the block of `reported`."""

    def __init__(self, connection: "duckdb.DuckDBPyConnection", question: Question) -> None:
        self._connection = connection
        self._question = question

    def rows(self) -> Iterator[Row]:
        """In the order of the question."""
        yield from (_row(values) for values in _batched(self._connection, sql.rows(self._question)))

    def total(self) -> Row:
        (values,) = _batched(self._connection, sql.total())
        return _row(values)

    def strays(self) -> list[Stray]:
        return [Stray(*values) for values in _batched(self._connection, Statement(sql.STRAYS, {}))]


@contextmanager
def reported(question: Question, files: Sequence[Path], on_progress: OnProgress) -> Iterator[Report]:
    """The answer to `question` from `files`. Raises `UnreadableLogsError`."""
    with _connected() as connection:
        _execute(connection, sql.counting(question, files), on_progress)
        yield Report(connection, question)


@contextmanager
def records_by_start(
    columns: Mapping[str, str], files: Sequence[Path], on_progress: OnProgress
) -> Iterator[Iterator[tuple[Any, ...]]]:
    """Rows of `sql.by_start`: the file of a stray or None, then `columns`. Raises `UnreadableLogsError`."""
    with _connected() as connection:
        _execute(connection, sql.by_start(columns, files), on_progress)
        yield _fetched(connection)


@contextmanager
def _connected() -> Iterator["duckdb.DuckDBPyConnection"]:
    import duckdb  # who only serves need not load it

    with private_directory() as spill:
        settings: dict[str, Any] = {
            "memory_limit": MEMORY,
            "threads": str(min(os.cpu_count() or 1, _MAX_THREADS)),
            "temp_directory": str(spill),
            "preserve_insertion_order": "false",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
        }
        with duckdb.connect(":memory:", config=settings) as connection:
            connection.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = true")
            connection.execute("SET enable_progress_bar_print = false")
            try:
                yield connection
            except duckdb.OutOfMemoryException:
                advice = "use fewer dimensions, or a shorter period"
                raise UnreadableLogsError(f"{MEMORY} of memory are not enough; {advice}") from None
            except (duckdb.IOException, duckdb.InvalidInputException) as error:
                raise UnreadableLogsError(_explained(str(error))) from None


def _execute(connection: "duckdb.DuckDBPyConnection", statement: Statement, on_progress: OnProgress) -> None:
    """Run in a thread of its own, so that progress is shown meanwhile and Ctrl-C works."""
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(connection.execute, statement.text, dict(statement.parameters))
        try:
            while not running.done():
                wait([running], _LOOK_S)
                on_progress(max(0.0, connection.query_progress()))
            running.result()
        except BaseException:
            connection.interrupt()
            raise


def _batched(connection: "duckdb.DuckDBPyConnection", statement: Statement) -> Iterator[tuple[Any, ...]]:
    with connection.cursor() as cursor:  # one each, so that answers can be read side by side
        cursor.execute(statement.text, dict(statement.parameters))
        yield from _fetched(cursor)


def _fetched(connection: "duckdb.DuckDBPyConnection") -> Iterator[tuple[Any, ...]]:
    while batch := connection.fetchmany(_BATCH):
        yield from batch


def _row(values: Sequence[Any]) -> Row:
    figures = len(Row.__dataclass_fields__) - 1
    return Row(tuple(values[:-figures]), *values[-figures:])


def _explained(message: str) -> str:
    first = message.partition("\n")[0].removeprefix("IO Error: ").removeprefix("Invalid Input Error: ")
    if "maximum_object_size" in first:
        first = f"{first.partition('file ')[2].partition(' (')[0]}: a line of more than 16 MB, which is no record"
    return f"{first}; leave it out by naming the other logs, or repair it"
