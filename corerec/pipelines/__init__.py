"""What turns a data set into a release: the steps of `corerec train`."""
