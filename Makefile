# minidocker: the commands of the house. `make help` lists them. Each sets the machine up first if it is not.

export MINIDOCKER_HOME ?= /var/lib/minidocker
export PYTHON ?= /usr/bin/python3
export PYTHONPATH := $(CURDIR):$(CURDIR)/chapters/04_union_mounts:$(CURDIR)/chapters/08_versus_vms
# In CI a test that cannot run is a failure, not a skip.
export MINIDOCKER_MUST_WORK ?= $(if $(filter true,$(CI)),1)
# Without byte code each start would take two to three times as long.
unexport PYTHONDONTWRITEBYTECODE

# Containers need root; whoever is not root needs sudo, which takes the settings along.
KEEP = MINIDOCKER_HOME PYTHON PYTHONPATH MINIDOCKER_MUST_WORK CI KIT $(filter MINIDOCKER_MODULE_%,$(.VARIABLES))
SUDO = $(if $(filter 0,$(shell id -u)),,sudo env $(foreach name,$(sort $(KEEP)),'$(name)=$($(name))'))
VENV = $(MINIDOCKER_HOME)/venv-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
PY = $(VENV)/bin/python
AS_ROOT = $(SUDO) $(PY)

.DEFAULT_GOAL := help
.PHONY: run test test-vm test-vagrant test-setup box kit skeleton check-my lab check bench bench-check book tab notebook reset weave help provision lock

run: provision  ## set up, run every stage and every notebook, show what came of it
	$(AS_ROOT) -m tools.learner.run_all

test: provision $(if $(CHAPTER),,check)  ## set up, then all checks, tests and notebooks; CHAPTER=3: that chapter's tests
	$(AS_ROOT) -m pytest $(if $(CHAPTER),--chapter $(CHAPTER)) tests
	$(if $(CHAPTER),,$(AS_ROOT) -m pytest --nbval --nbval-cell-timeout=120 notebooks)
	$(if $(CHAPTER),,$(AS_ROOT) -m tools.book.linetrace)

lab: provision  ## set up and open JupyterLab on 127.0.0.1, on your copies in work/; it prints a link with the token
	$(AS_ROOT) -m tools.learner.desk

skeleton: provision  ## begin a module of your own in work/: the package's without its work; CHAPTER=03
	$(AS_ROOT) -m tools.learner.skeleton $(CHAPTER)

check-my: provision  ## grade your own module: CHAPTER=03, and MY=FILE if it is not in work/
	$(AS_ROOT) -m tools.learner.check_my $(CHAPTER) $(MY)

check: provision  ## style, format, types, layers, text, budgets, the notebooks, the shell scripts
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy
	$(VENV)/bin/lint-imports --no-logo
	$(PY) -m tools.book.weave --check
	$(AS_ROOT) -m tools.book.budget --check
	$(PY) -m tools.book.figures --check
	$(PY) -m tools.book.notebooks --check
	shellcheck vagrant/*.sh

book: provision  ## build the texts and labs as a web site, with search, into build/book, and the machine if it can be built
	-$(PY) -m tools.tab.build
	$(PY) -m tools.book.site

tab: provision  ## build the machine for a browser tab into build/tab: on Debian 12, with node, npm and zstd
	$(PY) -m tools.tab.build

bench: provision  ## measure, beside other runtimes, into build/bench.json; ONLY=start for the ids that begin so
	$(AS_ROOT) -m tools.bench.run_bench $(foreach name,ONLY QUICK RUNS RECORD,$(if $($(name)),$(name)=$($(name))))

bench-check: provision  ## measure quickly, and fail if a ratio has grown beyond what is recorded
	$(AS_ROOT) -m tools.bench.run_bench CHECK=1 QUICK=1 $(if $(ONLY),ONLY=$(ONLY))

test-vm: provision  ## all tests and notebooks in a virtual machine with cgroup v2 alone; TESTS=..., BARE=1, KIT=...
	$(AS_ROOT) -m tools.machines.guest $(if $(BARE),--bare,$(if $(KIT),--kit $(KIT),$(TESTS)))

box: provision  ## build Vagrant boxes with everything in them, of this machine's architecture, into build/box
	$(AS_ROOT) -m tools.machines.box

kit: provision  ## gather all that set-up needs into one folder, for machines without a network; KIT=PLACE
	$(AS_ROOT) -m tools.machines.kit $(or $(KIT),kit)

test-setup: provision  ## set-up from nothing in a bare Debian, all but browsers in it, and reset; RELEASE=trixie, KIT=...
	$(SUDO) $(foreach name,RELEASE NOTEBOOKS TESTS,$(if $($(name)),$(name)='$($(name))')) sh vagrant/try-setup.sh $(KIT)

test-vagrant: provision  ## build a box, and try `vagrant up` with it for real (needs vagrant-libvirt)
	$(SUDO) sh vagrant/try-vagrant.sh

weave: provision  ## write the reading order, and the package's code into the chapters' text, again
	$(PY) -m tools.book.budget
	$(PY) -m tools.book.weave

notebook: provision  ## execute a notebook and store its outputs: NAME=03_cgroups
	$(AS_ROOT) -m tools.book.notebooks --run $(NAME)

reset:  ## remove every trace of minidocker from this machine, however broken it is
	@$(if $(SUDO),sudo env 'MINIDOCKER_HOME=$(MINIDOCKER_HOME)') sh vagrant/reset.sh

help:  ## list these commands
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20

provision:
	@sh vagrant/provision.sh

# After a change of requirements.in: needs uv. The lock names no index and no path, so that it is the same from any machine.
lock:
	uv --no-config pip compile --universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
	    --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" -q \
	    requirements.in -o requirements.lock
