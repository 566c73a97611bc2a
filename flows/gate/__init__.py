"""The gate: what a version has to show before it answers in the champion's place.

gate.yaml       the limits, to be copied into a home and edited
config.py       the same, read
evaluation.py   what both versions say about the same users, by processes of `worker.py`
worker.py       one version, evaluated by the code it ships
checks.py       from numbers to verdicts
report.py       the page and the JSON that MLflow keeps
"""
