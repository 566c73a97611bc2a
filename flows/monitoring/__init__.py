"""What is watched of a served version, what is too much, and what then happens."""
