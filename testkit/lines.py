"""Lines of a file that another process is still writing to."""

from pathlib import Path


def complete_lines(file: Path) -> list[bytes]:
    """Its lines that end with a newline; the one being written is left for the next look."""
    return file.read_bytes().split(b"\n")[:-1]
