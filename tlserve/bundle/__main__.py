"""``python -m tlserve.bundle`` prints the JSON Schema of ``bundle.json``."""

import json
import sys

from tlserve.bundle.manifest import json_schema

sys.stdout.write(json.dumps(json_schema(), indent=2) + "\n")
