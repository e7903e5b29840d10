"""CoreRec trains a three-stage recommender and serves it as gRPC services on Ray Serve.

Importing this package imports none of torch, faiss, grpc or ray: each room brings its own.
"""

__version__ = "0.1.0"

__all__ = ["__version__"]
