"""Progress of long work: on a terminal, and there only."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from gatehouse.cli.options import err


@contextmanager
def progress(what: str) -> Iterator[Callable[[str], None]]:
    """Shows the latest progress message; removed when the block ends."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as shown:
        task = shown.add_task(what)
        yield lambda words: shown.update(task, description=words)
