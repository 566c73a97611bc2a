"""Groups of commands; like `hymirec.cli` they reach up to flows and serving, inside a command."""
