"""Copy the notebooks and exercises to work/, where a reader writes, and open JupyterLab there: `make lab`.

    python -m tools.learner.desk            copy what is not there yet, then start JupyterLab
    python -m tools.learner.desk --copy     only copy

What is in work/ is the reader's: it is never overwritten, and neither git nor a `git pull` touches it. To get a fresh
copy of a notebook, delete yours. In the virtual machine a service starts this program (vagrant/lab.sh).
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from tools import REPO

WORK = Path(os.environ.get("MINIDOCKER_WORK", REPO / "work"))


def copies() -> dict[Path, Path]:
    """What goes where: the notebooks, and the exercises of each chapter in a directory of its name."""
    found = {path: WORK / path.name for path in sorted(REPO.glob("notebooks/*.ipynb"))}
    for path in sorted(REPO.glob("chapters/*/exercises/exercise_*.py")):
        found[path] = WORK / path.parts[-3] / path.name
    return found


def copy() -> list[Path]:
    """Make the copies that are missing, for the owner of the repository, whoever runs this; which ones that were."""
    owner = REPO.stat()
    made = []
    for source, target in copies().items():
        if target.exists():
            continue
        for directory in (WORK, target.parent):
            if not directory.exists():
                directory.mkdir(parents=True)
                chown(directory, owner)
        fresh = target.with_name(target.name + ".new")  # a copy that is cut off is no copy
        shutil.copyfile(source, fresh)
        chown(fresh, owner)
        fresh.rename(target)
        made.append(target)
    return made


def chown(path: Path, owner: os.stat_result) -> None:
    """Give it to the owner, where the file system knows owners: a folder that a hypervisor shares may not."""
    if os.geteuid() == 0:
        try:
            os.chown(path, owner.st_uid, owner.st_gid)
        except PermissionError:
            pass


def top() -> Path:
    """What JupyterLab shows: the directory above work/, so that the notebooks' links to the chapters lead somewhere.

    That is the repository, unless work/ is elsewhere; then links to what the texts name are made there.
    """
    for name in ("chapters", "minidocker", "notebooks") if WORK.parent != REPO else ():
        if not (WORK.parent / name).exists():
            (WORK.parent / name).symlink_to(REPO / name)
    return WORK.parent


def main(arguments: list[str]) -> None:
    """Copy, then become JupyterLab. The notebooks' helper `lab` is found by PYTHONPATH, also from a copy."""
    copy()
    if "--copy" in arguments:
        return
    os.environ["PYTHONPATH"] = os.pathsep.join(map(str, (REPO, REPO / "notebooks")))
    os.chdir(WORK)
    # A kernel's sockets are files here, and the kernel takes no more than 107 characters for such a path, unix(7).
    home = os.environ.get("MINIDOCKER_HOME", "/var/lib/minidocker")
    os.environ.setdefault("JUPYTER_RUNTIME_DIR", f"{home}/jupyter")
    settings = ["--ip=127.0.0.1", "--no-browser", "--allow-root", "--KernelManager.transport=ipc"]
    settings += [f"--ServerApp.root_dir={top()}", f"--ServerApp.preferred_dir={WORK}"]
    settings += [f"--LabApp.app_settings_dir={REPO / 'tools/learner/jupyter'}"]  # pages as pages, no news
    os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", *settings, *arguments])


if __name__ == "__main__":
    main(sys.argv[1:])
