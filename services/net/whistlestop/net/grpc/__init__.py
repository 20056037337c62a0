"""A gRPC server over HTTP/2, written by hand (docs/decisions/0004-grpc-server.md)."""
