"""What every CoreRec service shares: server lifecycle, batching, stage clients, discovery, metrics.

Ray is imported in `ray_glue.py` alone; everything else here runs in a plain process too.
"""

import os

# gRPC can poll sockets in two ways. The newer hands every read and write through a pool of threads;
# with the older the thread that waits for an event reads it, which saves a hop between stages a
# quarter of its CPU (docs/operations.md, grpc#43447). gRPC looks when it is first imported, so
# processes of Ray inherit it from the one that starts Ray, or find it in the image's environment.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client,-event_engine_listener")
