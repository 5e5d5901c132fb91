"""tlserve: from a folder of labelled images to a tested, batched prediction endpoint."""

__version__ = "0.1.0"
