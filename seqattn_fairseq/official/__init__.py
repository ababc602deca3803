"""Reading what the official codes wrote: their parameters under our names, in our layout."""
