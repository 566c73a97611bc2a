"""Experiments on simulated users through the real gateway: `hymirec simulate`.

Gateway, experiments, exposure log, event log, registry, readouts and decisions are those of
production; users, the models' lists and the calendar are made up.
"""
