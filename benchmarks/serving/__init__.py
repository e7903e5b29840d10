"""CoreRec beside the same stages composed the textbook way: throughput, latency, CPU, and where a
request's time goes."""
