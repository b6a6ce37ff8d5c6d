"""The room: a Vagrantfile that is valid, copies for learners, the grading of their modules, the ways to a machine."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from xml.etree import ElementTree

import pytest
import yaml

from tests.helpers import BARE, REPO, need
from tests.helpers.swap import MODULES, PACKAGES, link_packages
from tests.helpers.traces import cgroups
from tools.learner import check_my, desk, skeleton
from tools.machines import box, disk

outside = pytest.mark.xfail(bool(BARE), reason="the guest has neither Vagrant nor a network", run=False)


# Vagrant


@pytest.fixture
def vagrant(tmp_path):
    """Vagrant with a home of its own, on a copy of the Vagrantfile; a stub stands for VirtualBox's program."""
    need(shutil.which("vagrant"), "needs Vagrant: apt install vagrant vagrant-libvirt")
    stub = tmp_path / "bin/VBoxManage"
    stub.parent.mkdir()
    stub.write_text("#!/bin/sh\necho 6.1.0r1\n")
    stub.chmod(0o755)
    project = tmp_path / "project"
    project.mkdir()
    shutil.copy(REPO / "Vagrantfile", project)

    def run(*arguments, **variables):
        env = {key: value for key, value in os.environ.items() if not key.startswith("MINIDOCKER_")}
        env |= {"HOME": str(tmp_path), "VAGRANT_HOME": str(tmp_path / "vagrant.d"), "VAGRANT_CHECKPOINT_DISABLE": "1"}
        env |= {"PATH": f"{stub.parent}:{env['PATH']}", "LC_ALL": "C.UTF-8", **variables}
        command = ["vagrant", *arguments]
        done = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, timeout=300)
        return done.returncode, done.stdout + done.stderr

    return run


@outside
@pytest.mark.parametrize("provider", ["libvirt", "virtualbox"])
def test_the_vagrantfile_is_valid(vagrant, provider):
    status, said = vagrant("validate", VAGRANT_DEFAULT_PROVIDER=provider, MINIDOCKER_VAGRANT_ANY="1")
    assert status == 0, said
    assert "successfully" in said


@outside
def test_a_setting_that_makes_no_sense_is_refused(vagrant):
    status, said = vagrant("validate", MINIDOCKER_VAGRANT_ANY="1", MINIDOCKER_MEMORY="much")
    assert status != 0
    assert "much" in said


@outside
def test_an_old_vagrant_is_told_so(vagrant):
    version = re.search(r"\d+\.\d+\.\d+", vagrant("--version")[1])[0]
    status, said = vagrant("validate", VAGRANT_DEFAULT_PROVIDER="libvirt")
    assert (status == 0) == (tuple(map(int, version.split("."))) >= (2, 4, 0)), said


def test_a_box_for_virtualbox_is_described_in_xml():
    description = ElementTree.fromstring(box.OVF.read_text().format(size=box.SIZE, file_size=1))
    assert str(box.SIZE) in ElementTree.tostring(description, encoding="unicode")


def test_the_table_of_partitions_is_read_by_others(tmp_path):
    image = tmp_path / "disk"
    table = box.partition(0x83, box.START, 4096, active=True)
    image.write_bytes(bytes(446) + table.ljust(64, b"\0") + b"\x55\xaa" + bytes(8 << 20))
    fields = subprocess.run(["partx", "-o", "START,SECTORS,TYPE", "-g", image], capture_output=True, text=True).stdout
    assert fields.split() == ["2048", "4096", "0x83"]


# Copies, and their grading


@pytest.fixture
def table(tmp_path, monkeypatch):
    """A work/ of its own."""
    monkeypatch.setattr(desk, "WORK", tmp_path / "work")
    monkeypatch.setattr(check_my, "WORK", tmp_path / "work")
    return tmp_path / "work"


def test_a_readers_copy_is_never_overwritten(table):
    made = desk.copy()
    assert {path.name for path in made} >= {"00_process.ipynb", "03_cgroups.ipynb", "exercise_1.py"}
    mine = table / "00_process.ipynb"
    mine.write_text("mine")
    (table / "01_chroot.ipynb").unlink()
    assert desk.copy() == [table / "01_chroot.ipynb"]
    assert mine.read_text() == "mine"
    assert not list(table.rglob("*.new"))


def test_a_copy_belongs_to_the_owner_of_the_repository(table):
    desk.copy()
    assert {path.stat().st_uid for path in table.rglob("*")} == {REPO.stat().st_uid}


@outside
def test_git_does_not_see_the_copies():
    ignored = subprocess.run(["git", "check-ignore", "work/00_process.ipynb"], cwd=REPO, capture_output=True)
    assert ignored.returncode == 0


def grade(chapter, file, **variables):
    command = [sys.executable, "-m", "tools.learner.check_my", chapter, str(file)]
    env = {**os.environ, "MINIDOCKER_WORK": str(file.parent), **variables}
    return subprocess.run(command, cwd=REPO, env=env, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize(
    ("chapter", "name", "right", "wrong"),
    [
        (1, "minidocker/rootfs", 'call("umount2", ".", MNT_DETACH, path=".")', "pass"),
        (8, "chapters/08_versus_vms/bench/memory", '"Pss:"', '"Rss:"'),
    ],
)
def test_a_module_that_is_not_right_gets_the_fact_behind_it(chapter, name, right, wrong, tmp_path):
    source = (REPO / f"{name}.py").read_text()
    mine = tmp_path / "mine.py"
    mine.write_text(source.replace(right, wrong))
    assert mine.read_text() != source
    done = grade(f"{chapter:02}", mine)
    assert done.returncode == 1
    assert "not yet: " in done.stdout
    assert "    the fact: " in done.stdout
    assert re.search(rf"chapter {chapter}: [1-9]\d* tests pass with .*mine.py, [1-9]\d* do not", done.stdout)


def test_a_module_that_is_right_passes(tmp_path):
    mine = tmp_path / "rootfs.py"
    shutil.copy(REPO / "minidocker/rootfs.py", mine)
    done = grade("01", mine)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"chapter 1: [1-9]\d* tests pass with .*rootfs.py, 0 do not", done.stdout)


@pytest.mark.parametrize("chapter", sorted(MODULES))
def test_a_skeleton_is_the_module_without_its_work(chapter, table):
    skeleton.main([f"{chapter:02}"])
    (mine,) = table.glob("*.py")
    tree, text = ast.parse(mine.read_text()), mine.read_text()
    assert "NotImplementedError('your turn')" in text
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert len(node.body) - bool(ast.get_docstring(node)) == 1
    assert mine.stat().st_uid == REPO.stat().st_uid
    mine.write_text("mine")
    with pytest.raises(SystemExit, match="is there already"):
        skeleton.main([f"{chapter:02}"])
    assert mine.read_text() == "mine"


def test_a_skeleton_is_graded_and_equal_failures_are_told_together(table):
    skeleton.main(["01"])
    done = grade("01", table / "rootfs.py")
    assert done.returncode == 1
    assert re.search(r"not yet: .*, and \d+ more\n    found: .*your turn", done.stdout), done.stdout
    assert done.stdout.count("your turn") < 5


def test_a_module_that_python_cannot_read_is_no_success(tmp_path):
    mine = tmp_path / "rootfs.py"
    mine.write_text("this is not Python\n")
    assert grade("01", mine).returncode == 1


def test_a_chapter_or_a_file_that_is_not_there_is_one_line(tmp_path):
    for done in (grade("77", tmp_path / "x.py"), grade("01", tmp_path / "nothing.py")):
        assert done.returncode == 1
        assert done.stderr.startswith("check-my: ")
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("chapter", sorted(MODULES))
def test_each_hint_belongs_to_a_test_that_is_run(chapter):
    """And is the first for one at least: a hint that a shorter piece of a name covers would never be given."""
    (directory,) = REPO.glob(f"chapters/{chapter:02}_*")
    hints = check_my.hints(directory)
    parts = check_my.PARTS.get(chapter, ("",))
    tests = [
        name
        for place in check_my.tests(chapter)
        for file in place.glob("test_*.py")
        if f"chapter({chapter})" in file.read_text()
        for name in re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE)
        if any(part in f"{file.stem} {name}" for part in parts)
        and not any(part in name for part in check_my.ELSEWHERE + check_my.LONG)
    ]
    given = {next((piece for piece in hints if piece in name), "") for name in tests}
    assert hints and tests
    assert sorted(hints.keys() - given) == []
    without = [name for name in tests if not any(piece in name for piece in hints)]
    assert chapter <= 3 or len(without) < len(tests) / 4  # where the message does not say it all


@pytest.mark.parametrize(
    ("chapter", "importer"),
    [(3, "minidocker.cgroups"), (4, "aufs"), (5, "minidocker.images.layer.unpack"), (8, "bench.memory")],
)
def test_every_importer_gets_the_readers_module_and_the_rest_is_ours(chapter, importer, tmp_path):
    name = MODULES[chapter]
    source = PACKAGES[name.partition(".")[0]] / f"{name.replace('.', '/')}.py"
    source = source if source.exists() else source.with_suffix("") / "__init__.py"
    (tmp_path / "mine.py").write_text(source.read_text() + "\nMINE = True\n")
    link_packages(tmp_path, {name: tmp_path / "mine.py"})
    code = f"import sys, {importer}; print([n for n, m in sys.modules.items() if hasattr(m, 'MINE')])"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={}, capture_output=True, text=True)
    assert done.stdout == f"['{name}']\n", done.stderr


def test_a_check_cell_judges_the_file_beside_the_notebook(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(REPO / "notebooks"))
    import lab

    place = tmp_path / "03_cgroups"
    place.mkdir()
    monkeypatch.setattr(lab, "HERE", tmp_path)
    monkeypatch.chdir("/")  # a lab may be elsewhere by then
    for source, answer in (("exercises", "exercise 1: not yet: "), ("solutions", "exercise 1: done")):
        shutil.copy(REPO / "chapters/03_cgroups" / source / "exercise_1.py", place)
        lab.check(3, 1)
        assert capsys.readouterr().out.startswith(answer)


# Other ways to a machine


@pytest.mark.parametrize("name", ["cloud-init.yaml", "minidocker.lima.yaml"])
def test_other_machines_call_the_same_script(name):
    text = (REPO / "vagrant" / name).read_text()
    settings = yaml.safe_load(text)
    assert "/srv/minidocker/vagrant/lab.sh" in json.dumps(settings)
    assert "--ip=0.0.0.0" not in text
    scripts = [step["script"] for step in settings.get("provision", [])]
    scripts += [file["content"] for file in settings.get("write_files", [])]
    assert scripts
    for script in scripts:
        assert subprocess.run(["shellcheck", "-"], input=script, text=True).returncode == 0


def test_set_up_names_every_package_of_the_guest():
    always, extra = disk.packages()
    assert {"python3", "python3-venv", "mmdebstrap"} <= {*always}
    assert "qemu-utils" in extra
    assert not {'"', "="} & {*"".join(always + extra)}


# Faults


# A kernel that runs the first cells of a notebook, starts a container, and is killed with SIGKILL.
KILLED = """
import json, sys
from jupyter_client.manager import start_new_kernel

manager, client = start_new_kernel(extra_arguments=["--HistoryManager.enabled=False", "--log-level=ERROR"])
cells = [cell for cell in json.load(open(sys.argv[1]))["cells"] if cell["cell_type"] == "code"][:6]
last = "half = start(['sleep', '600'], Cgroup(memory='32m'), name='half-way').__enter__()"
for source in [*("".join(cell["source"]) for cell in cells), last]:
    reply = client.execute_interactive(source, output_hook=lambda message: None, timeout=600)
    assert reply["content"]["status"] == "ok", reply["content"]
manager.provisioner.process.kill()
manager.provisioner.process.wait()
client.stop_channels()
"""


def half_way():
    """The groups of the container that such a kernel left."""
    return [path for path in cgroups() if path.endswith("/half-way")]


def compare(*names):
    """`pytest notebooks/...` of these, all at the same time; the exit statuses and what they said."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    running = [
        subprocess.Popen([*command, f"notebooks/{name}.ipynb"], cwd=REPO, stdout=subprocess.PIPE, text=True)
        for name in names
    ]
    return [(process.communicate()[0], process.returncode) for process in running]


@pytest.mark.skipif(os.geteuid() != 0, reason="the notebooks need root")
def test_a_kernel_is_killed_half_way_and_the_next_notebook_works_and_cleans_up():
    env = {**os.environ, "PYTHONPATH": f"{REPO}:{REPO}/notebooks"}
    command = [sys.executable, "-c", KILLED, "03_cgroups.ipynb"]
    subprocess.run(command, env=env, cwd=REPO / "notebooks", check=True, timeout=900)
    assert half_way()
    ((said, status),) = compare("01_chroot")
    assert status == 0, said
    assert half_way() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="the notebooks need root")
@pytest.mark.parametrize("names", [("01_chroot", "01_chroot"), ("04_union_mounts", "07_ports")], ids=" and ".join)
def test_two_notebooks_at_once(names):
    for said, status in compare(*names):
        assert status == 0, said


# Set-up on a disk that is too small, in a mount namespace of its own; then the disk grows, and it goes on.
FULL = """set -eu
mount -t tmpfs -o size=3m small "$MINIDOCKER_HOME"
if sh vagrant/provision.sh; then echo "it fitted"; exit 1; fi
find "$MINIDOCKER_HOME" -mindepth 1 | head -n 20
echo "--- then"
mount -o remount,size=3g "$MINIDOCKER_HOME"
sh vagrant/provision.sh
test -x "$MINIDOCKER_HOME"/roots/busybox/bin/busybox
"""


@outside
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_no_space_left_is_an_error_and_no_obstacle_later(tmp_path):
    env = {**os.environ, "MINIDOCKER_HOME": str(tmp_path), "MINIDOCKER_MUST_WORK": "0", "PYTHON": sys.executable}
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", FULL]
    done = subprocess.run(command, cwd=REPO, env=env, capture_output=True, text=True, timeout=900)
    before, _, after = done.stdout.partition("--- then")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "provision: " in done.stderr
    assert ".venv" not in before, "half an environment stayed"
    assert "making the root file system" in after
