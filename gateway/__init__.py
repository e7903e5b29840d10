"""The gateway: CoreRec's one public service. It imports neither torch nor faiss."""
