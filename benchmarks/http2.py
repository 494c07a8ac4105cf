"""What one gRPC call costs in our own HTTP/2 and in `h2`: `python -m benchmarks.http2 [--calls 5000]`.

Both get the same bytes in memory, call by call, as Envoy sends them: a header block, and a message that ends the
stream. Both answer with headers, a message and trailers. The figures hold the protocol alone, no socket and no event
loop: CPU time of this process, the median and the best of the rounds. Each "traced" call has its own `traceparent`.
"""

import argparse
import struct
import time
from collections.abc import Callable, Iterator
from statistics import median

import h2.config
import h2.connection
import h2.events
from hpack import Encoder

from gatehouse.rpc.http2 import frames
from gatehouse.rpc.http2.calls import Calls
from gatehouse.rpc.http2.trace_fields import TRACEPARENT
from gatehouse.rpc.service import Unary

METHOD = "/envoy.service.auth.v3.Authorization/Check"
HEADERS = (
    (":method", "POST"),
    (":scheme", "http"),
    (":path", METHOD),
    (":authority", "authz"),
    ("te", "trailers"),
    ("grpc-timeout", "1600m"),
    ("content-type", "application/grpc"),
)
REQUEST, ANSWER = bytes(400), bytes(200)
"""Some bytes of a check, and of its answer."""
_WIDE = frames.settings({frames.INITIAL_WINDOW_SIZE: frames.MAX_WINDOW})
_GREETING = frames.PREFACE + _WIDE + frames.window_update(0, frames.MAX_WINDOW - frames.DEFAULT_WINDOW)

Feed = Callable[[bytes], None]


def calls(count: int, *, traced: bool) -> Iterator[bytes]:
    """The bytes of each call of a client that keeps no header table, as we ask of our peers."""
    encoder = Encoder()
    encoder.header_table_size = 0  # the first block says so
    for number in range(count):
        block = encoder.encode([(*each, True) for each in HEADERS])  # never indexed
        if traced:
            value = f"00-{number:032x}-{number:016x}-01".encode()
            block += TRACEPARENT + bytes([len(value)]) + value
        stream, message = 2 * number + 1, struct.pack(">BL", 0, len(REQUEST)) + REQUEST
        yield (
            frames.head(frames.HEADERS, frames.END_HEADERS, stream, len(block))
            + block
            + frames.head(frames.DATA, frames.END_STREAM, stream, len(message))
            + message
        )


def ours(written: list[bytes]) -> Feed:
    calls = Calls({METHOD: Unary(lambda _request, _context: ANSWER, bytes, bytes)}, written.append)
    return calls.connection.feed


def by_h2(written: list[bytes]) -> Feed:
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
    connection.initiate_connection()
    bodies: dict[int, bytearray] = {}
    answer = struct.pack(">BL", 0, len(ANSWER)) + ANSWER

    def feed(data: bytes) -> None:
        for event in connection.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                bodies[event.stream_id] = bytearray()
            elif isinstance(event, h2.events.DataReceived):
                bodies[event.stream_id] += event.data
                connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                del bodies[event.stream_id]
                connection.send_headers(event.stream_id, [(":status", "200"), ("content-type", "application/grpc")])
                connection.send_data(event.stream_id, answer)
                connection.send_headers(event.stream_id, [("grpc-status", "0")], end_stream=True)
        written.append(connection.data_to_send())

    return feed


def cost_us(make: Callable[[list[bytes]], Feed], sent: list[bytes]) -> float:
    """CPU microseconds a call. Every call must have been answered."""
    written: list[bytes] = []
    feed = make(written)
    feed(_GREETING)
    before, began = len(written), time.process_time()
    for each in sent:
        feed(each)
    took = time.process_time() - began
    assert sum(each.count(ANSWER) for each in written[before:]) == len(sent), "a call was not answered"
    return took / len(sent) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=5)
    wanted = parser.parse_args()
    for traced in (False, True):
        sent = list(calls(wanted.calls, traced=traced))
        for name, make in (("ours", ours), ("h2", by_h2)):
            rounds = [cost_us(make, sent) for _ in range(wanted.rounds)]
            kind = "traced" if traced else "plain"
            print(f"{name:5} {kind:7} {median(rounds):6.1f} us a call (best {min(rounds):.1f})")


if __name__ == "__main__":
    main()
