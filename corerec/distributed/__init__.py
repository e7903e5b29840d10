"""Training, embedding, indexing and tuning over many processes, with Ray Train, Data and Tune.

Nothing here is needed to train in one process, and nothing outside imports it but the command line.
"""
