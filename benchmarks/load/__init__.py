"""A load generator over HTTP/1.1, in a process of its own; the standard library only."""
