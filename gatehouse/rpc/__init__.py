"""gRPC services and clients: on unix sockets with our own HTTP/2, over TCP with grpcio."""
