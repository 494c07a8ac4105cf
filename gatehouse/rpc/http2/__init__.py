"""gRPC over HTTP/2 on unix sockets: how the services answer Envoy on the path of every request, and call each other.

One event loop reads, decides and writes, without handing calls to other threads, which is most of a call's cost
elsewhere (docs/benchmarks.md). Everything a peer may send is handled as the RFCs say; what only servers on the open
internet need (priorities, push, TLS) is left out.

- `frames`      the bytes of frames, and how both sides read them
- `headers`     HPACK: request headers, and the few header blocks of responses
- `connection`  one connection: streams, flow control, errors. Bytes in, bytes out, no I/O
- `messages`    gRPC messages as they are sent
- `calls`       gRPC on its streams: methods, status
- `unix`        the listener: accept, drain, close
- `client`      unary calls, one after the other
"""
