"""Everything a home writes down as it happens, in one database: SQLite, or PostgreSQL by address.

database.py           the database: rights, order, errors that name it
event_log.py          what users did; events.py: as senders write it; lag.py: how far readers are
audit_log.py          who changed what is in production
exposures.py          what was shown; exposure_journal.py: on its way there
experiments.py        what is declared; standing.py: where each stands; readings.py: what was read
outcomes.py           what became of served lists; readouts.py: all that is known of an experiment
leases.py             which codebooks running servers need
"""
