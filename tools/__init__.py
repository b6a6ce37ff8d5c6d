"""What the house works with: `book` (the text and the notebooks), `bench`, `machines`, `learner`; run by python -m."""

import os
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
HOME = Path(os.environ.get("MINIDOCKER_HOME", "/var/lib/minidocker"))
KEPT = ".ipynb_checkpoints"  # where JupyterLab keeps copies of what a reader has opened; no file of ours
