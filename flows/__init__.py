"""Prefect flows: validate, encode, publish, train, evaluate, register, promote."""
