"""gRPC over HTTP/2 on unix sockets: how the services answer Envoy on the path of every request, and call each other.

One event loop reads, decides and writes; nothing is handed to another thread and back, which is most of what a call
costs elsewhere (docs/benchmarks.md). The RFCs are followed for whatever a peer may send; what only servers for the open
internet need (priorities, push, TLS) is left out.

- `frames`      the bytes of frames, and how both sides read them
- `headers`     HPACK: request headers, and the few blocks that answers are made of
- `connection`  one connection: streams, flow control, errors. Bytes in, bytes out, no I/O
- `messages`    gRPC messages as they are sent
- `calls`       gRPC on its streams: methods, status
- `unix`        the listener: accept, drain, close
- `client`      unary calls, one after the other
"""
