"""The model bundle: the directory in which the stages meet.

``manifest`` says what ``bundle.json`` holds, ``reading`` opens and verifies a bundle, ``staging``
writes one so that nothing half-written is ever seen, ``excerpt`` copies what one purpose needs.
"""

from tlserve.bundle.reading import Bundle
from tlserve.bundle.staging import StagedBundle, stage

__all__ = ["Bundle", "StagedBundle", "stage"]
