"""The Feast repository: definitions, offline files, online reads."""
