"""The first stage: vectors, the index over them, the popular list, and the core that joins them."""
