"""Window functions over events, in NumPy: their values at any instant, and expressions over them.

Face: `versions` (events as arrays, and which version of each is in force), `window` (any group at any time), `now` (one
key now, from packed events), `reduce` (the kernels), `expression` (an output's expression over window results).
"""
