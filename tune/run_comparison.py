"""Compare CausalGeD with other methods and the floors: `python tune/run_comparison.py --methods all`.

Exit codes: 0 all trials finished, 1 some failed, 2 wrong arguments or data, 130 stopped with Ctrl-C.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# run as a script, this file's own folder comes first: a file there must not stand in for a library
sys.path[:] = [str(ROOT), *(p for p in sys.path if Path(p or ".").resolve() != ROOT / "tune")]

from tune.cluster.environment import prepare_environment

prepare_environment()

from tune.commands.comparison import main

if __name__ == "__main__":
    sys.exit(main())
