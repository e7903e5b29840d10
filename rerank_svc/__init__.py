"""The rerank service: one stage of the funnel behind gRPC."""
