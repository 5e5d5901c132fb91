"""What an exported file says of itself."""

from __future__ import annotations

import json

from tlserve.bundle import Bundle


def description(bundle: Bundle) -> str:
    """Describe a model inside its exported file, so that the file is complete without the bundle.

    Returns:
        JSON: name, version, classes in index order, preprocessing and calibration.
    """
    content = bundle.manifest.model_dump(
        mode="json",
        include={"name", "version", "architecture", "classes", "preprocessing", "calibration"},
    )
    return json.dumps(content, sort_keys=True, ensure_ascii=False)
