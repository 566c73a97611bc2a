"""Between trainings: items published by their texts alone, a codebook refitted to all of them."""
