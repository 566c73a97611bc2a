"""HyMiRec: hybrid multi-interest sequential recommendation (arXiv 2510.13738)."""
