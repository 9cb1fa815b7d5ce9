"""Put tests/ on the import path: scripts share the generators of untrusted files in tests/support.

Imported for this effect alone, before `support`.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
