"""A crowd whose wishes are known, and recommenders as good as they are told to be.

What experiments find out about either can be compared with the truth. Nothing here reads a home or
serves anything; `serving.simulation` does.
"""
