"""The retrieval service: one stage of the funnel behind gRPC."""
