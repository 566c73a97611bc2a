"""What flows run on: settings of the tools, Prefect's server, locks, shards, word to people."""
