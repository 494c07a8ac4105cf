"""Where Envoy's time goes: the stacks of a gateway's Envoy under load, with names, though its binary has no symbols.

    python -m benchmarks.envoy_stacks [--connections 16] [--seconds 8] [--floor] >envoy.folded

What it prints has a line for each stack, outermost function first, and how often it was seen: the form that flame graph
tools take (`inferno-flamegraph <envoy.folded >envoy.svg`). To the terminal goes what each function took, with all that
it called, in µs of CPU a request.

`perf` samples, along frame pointers, which Envoy keeps. A virtual function is named after its class and its place in
the vtable (`Envoy::Router::Filter#6`): class names are in the binary for `typeid` (Itanium C++ ABI, section 2.9).
Others are named by their address. Needs Linux on x86-64, `perf` with leave to watch another process, and `c++filt`.
"""

import argparse
import bisect
import shutil
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from elftools.elf.elffile import ELFFile

from benchmarks.clients.closed import load
from benchmarks.contenders import BY_NAME, Running
from benchmarks.machine import allow_many_files
from benchmarks.measures.throughput import turn
from benchmarks.runner import the_field
from gatehouse.gateway.envoy_binary import envoy_path

_RELATIVE = 8  # R_X86_64_RELATIVE
_LONGEST_NAME = 4000
_SHOWN = 60

Stack = tuple[str, ...]


class Names:
    """What the functions of a stripped binary are called, by where they are in its file."""

    def __init__(self, binary: Path) -> None:
        with binary.open("rb") as file:
            elf: Any = ELFFile(file)
            text = elf.get_section_by_name(".text")
            self._shift = text["sh_addr"] - text["sh_offset"]
            self._range = range(text["sh_addr"], text["sh_addr"] + text["sh_size"])
            self._starts = _function_starts(elf)
            self._called = _virtual_functions(elf, self._range)

    def of(self, offset: int) -> str | None:
        """The function at `offset` of the file; None where there is no code."""
        address = offset + self._shift
        if address not in self._range:
            return None
        start = self._starts[bisect.bisect_right(self._starts, address) - 1]
        return self._called.get(start, f"{start:#x}")


def _function_starts(elf: Any) -> list[int]:
    """From the table that exceptions are unwound by (Linux Standard Base, `.eh_frame_hdr`)."""
    section = elf.get_section_by_name(".eh_frame_hdr")
    table, base = section.data(), section["sh_addr"]
    (count,) = struct.unpack_from("<I", table, 8)
    return sorted(base + start for start, _ in struct.iter_unpack("<ii", table[12 : 12 + 8 * count]))


def _virtual_functions(elf: Any, text: range) -> dict[int, str]:
    """Address -> `Class#place`. A function that several classes have is named after the one with the shortest name."""
    relocations = elf.get_section_by_name(".rela.dyn").data()
    pointers = {at: to for at, info, to in struct.iter_unpack("<QQq", relocations) if info & 0xFFFFFFFF == _RELATIVE}
    types = dict(_types(elf, pointers, text))
    found: dict[int, tuple[str, int]] = {}
    for at, to in pointers.items():
        place, entry = 0, at + 8
        while to in types and pointers.get(entry, -1) in text:
            found[pointers[entry]] = min(
                found.get(pointers[entry], (types[to], place)), (types[to], place), key=lambda one: len(one[0])
            )
            place, entry = place + 1, entry + 8
    readable = _demangled(sorted({mangled for mangled, _ in found.values()}))
    return {address: f"{readable[mangled]}#{place}" for address, (mangled, place) in found.items()}


def _types(elf: Any, pointers: Mapping[int, int], text: range) -> Iterator[tuple[int, str]]:
    """Where a `std::type_info` is, and its mangled name: two pointers, of which the second leads to text."""
    section = elf.get_section_by_name(".rodata")
    data, base = section.data(), section["sh_addr"]
    for at, to in pointers.items():
        name = pointers.get(at + 8, 0) - base
        if to in text or not 0 <= name < len(data) or data[name : name + 1] not in (b"N", b"S", b"*"):
            continue
        yield at, data[name : data.find(b"\0", name, name + _LONGEST_NAME)].decode("latin-1")


def _demangled(names: list[str]) -> dict[str, str]:
    done = subprocess.run(["c++filt", "-t"], input="\n".join(names), capture_output=True, text=True, check=True)
    return dict(zip(names, done.stdout.split("\n"), strict=False))


def _samples(pid: int, names: Names, recording: Path) -> Iterator[Stack]:
    script = ["perf", "script", "-i", str(recording), "--pid", str(pid), "-F", "ip,sym"]
    done = subprocess.run(script, capture_output=True, text=True, check=True)
    for sample in done.stdout.split("\n\n"):
        frames = [line.split(maxsplit=1) for line in sample.splitlines() if line.strip()]
        if frames:
            yield tuple(names.of(int(at, 16)) or symbol for at, symbol in reversed(frames))


def _recorded(contender: Running, connections: int, seconds: float) -> tuple[list[Stack], float]:
    """The stacks of its Envoy under load, and the CPU that a request took of it, in µs."""
    (pid,) = (pid for pid, role in contender.processes().items() if role == "envoy")
    with tempfile.TemporaryDirectory(prefix="gh-perf-") as folder:
        recording = Path(folder) / "perf.data"
        record = ["perf", "record", "-q", "-e", "cpu-clock", "-F", "2000", "--call-graph", "fp", "-p", str(pid)]
        with subprocess.Popen([*record, "-o", str(recording), "--", "sleep", str(seconds)]) as perf:
            seen = turn(contender, connections, seconds)
        if perf.returncode:
            raise RuntimeError("perf could not record: is it allowed to (kernel.perf_event_paranoid)?")
        return list(_samples(pid, Names(Path(envoy_path())), recording)), seen["cpu_us:envoy"]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--floor", action="store_true", help="of Envoy with the same filters, but no services")
    options = parser.parse_args()
    for tool in ("perf", "c++filt", "h2load"):
        if shutil.which(tool) is None:
            print(f"there is no {tool} (Debian and Ubuntu: linux-perf, binutils, nghttp2-client)", file=sys.stderr)
            return 2
    allow_many_files()
    with the_field([BY_NAME["Envoy, same filters" if options.floor else "Gatehouse"]]) as field:
        (contender,) = field.contenders
        load(contender, options.connections, 2)
        stacks, cpu_us = _recorded(contender, options.connections, options.seconds)
    for stack, times in Counter(stacks).items():
        print(";".join(stack), times)
    within = Counter(function for stack in stacks for function in set(stack))
    for function, times in within.most_common(_SHOWN):
        print(f"{times / len(stacks) * cpu_us:8.1f} µs  {function[:150]}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
