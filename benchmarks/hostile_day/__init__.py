"""The parts of `benchmarks/chaos.py`: what runs, what asks, what breaks it, and what is proved."""
