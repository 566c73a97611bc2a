"""What is kept of a run, in MLflow and for people.

runs.py     what every flow runs in: its lock, its MLflow run, and Prefect's link to that
record.py   what MLflow keeps of steps and trainings
plots.py    drawings of what runs came to
"""
