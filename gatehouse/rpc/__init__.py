"""gRPC services and clients: on unix sockets by our own HTTP/2, over TCP by grpcio."""
