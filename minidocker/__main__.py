"""`python -m minidocker`: the command line, without the installed command."""

import sys

from minidocker.cli import main

sys.exit(main(sys.argv[1:]))
