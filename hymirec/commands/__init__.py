"""Groups of commands; like `hymirec.cli`, they reach up inside their commands."""
