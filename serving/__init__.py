"""The served model and the processes around it."""
