"""`python -m hymirec` is the command line; `torchrun` starts it this way."""

from hymirec.cli import main

main()
