"""``python -m deploy.dashboard``: write the file that Grafana reads."""

from __future__ import annotations

from deploy.dashboard.board import FILE, text

FILE.write_text(text(), "utf-8")
