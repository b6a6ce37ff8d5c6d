"""`python3 -m minidocker`: the command line, without the installed command."""

from minidocker.cli import command

command()
