"""Programs that try to break the product for as long as one likes, and say what they found."""
