"""The ranking service: one stage of the funnel behind gRPC."""
