"""What the product costs, beside the physical limit of each path and beside Feast on the same data."""
