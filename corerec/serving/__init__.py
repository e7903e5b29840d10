"""What every CoreRec service shares: server lifecycle, batching, stage clients, discovery, metrics.

Ray is imported in `ray_glue.py` alone; everything else here runs in a plain process too.
"""
