"""What the pipeline does, step by step, and how a step's result is kept.

results.py      a step done once is found again, by a digest of all it depends on
data.py         files of any supported form to canonical tables
encode.py       item texts to embeddings to codes
publish.py      codes, histories and statistics to the feature store; published.py: what is there
train.py        the recommender, and its evaluation; ranking.py: the test cases ranked in shards
register.py     a trained recommender becomes a registered version
"""
