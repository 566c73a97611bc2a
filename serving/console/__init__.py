"""The console: web pages for owners of experiments and for operators."""
