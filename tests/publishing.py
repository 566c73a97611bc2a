"""Publishing from a table in memory, for tests; flows publish from the file of validated data."""

from features import publication
from hymirec.datasets.canonical import write_frame


def publish(home, codebook_id, interactions, item_ids, codes, at, **more):
    """`features.publication.publish` of a table in any order of users."""
    path = home.root / "interactions.parquet"
    write_frame(interactions.sort_values("user_id", kind="stable", ignore_index=True), path)
    publication.publish(home, codebook_id, path, item_ids, codes, at, **more)
