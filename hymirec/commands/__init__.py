"""Commands that come in groups: `hymirec events …` and its like."""
