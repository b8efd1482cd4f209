"""Studies of trackers and trainings: `python -m experiments.studies NAME [option=value ...]`, in a checkout."""

import sys
from pathlib import Path

from had_snn.commands.entry import CONFIGS, start

PREFIX = ""
NAMES = sorted(p.stem for p in Path(__file__).parent.glob("*.py") if Path(CONFIGS, f"{PREFIX}{p.stem}.yaml").is_file())

if __name__ == "__main__":
    name = sys.argv.pop(1) if len(sys.argv) > 1 else ""
    if name not in NAMES:
        sys.exit(f"{name or 'no name'}: expected one of {', '.join(NAMES)}")
    start(PREFIX + name)
