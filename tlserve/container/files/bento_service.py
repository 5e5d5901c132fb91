"""The Bento's service: tlserve's, with the model that lies beside this file."""

import os
from pathlib import Path

os.environ.setdefault("TLSERVE_BUNDLE", str(Path(__file__).resolve().with_name("model")))

from service.main import TlserveService

__all__ = ["TlserveService"]
