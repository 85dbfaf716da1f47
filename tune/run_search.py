"""Search hyper-parameters: `python tune/run_search.py --space full --samples 100`.

Exit codes: as those of `run_ablation.py`; the samples that fail are part of a search, and make none of it fail.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# run as a script, this file's own folder comes first: a file there must not stand in for a library
sys.path[:] = [str(ROOT), *(p for p in sys.path if Path(p or ".").resolve() != ROOT / "tune")]

from tune.cluster.environment import prepare_environment

prepare_environment()

from tune.commands.search import main

if __name__ == "__main__":
    sys.exit(main())
