"""What data has to be like before anything learns from it.

admission.py    which data sets may be trained on, and which of them is the latest
validate.py     tables against suites, by Great Expectations
suites.py       suites as a person edits them: `flows/expectations/`, or a copy in the home
frames.py       the columns that rules are about
"""
