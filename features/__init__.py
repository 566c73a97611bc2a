"""The Feast repository: definitions, offline files, online reads."""

# Before Feast, which otherwise makes every counter of the process one shared by processes, in files
# of a temporary folder.
import prometheus_client  # noqa: F401
