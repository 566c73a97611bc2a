"""Registered versions: who answers, how that came about, and what each needs.

aliases.py        the aliases that say which version answers, every move in the audit log
promote.py        the first that beats popularity, then who passes the gate (`flows.gate`)
lifecycle.py      where experiments meet the registry
inventory.py      what is known of versions; versions.py: of which codebook; card.py: for people
served.py         versions that an alias names, and their artifacts
verification.py   whether a version can be loaded by whoever has nothing but its files
"""
