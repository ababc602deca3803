"""Speed and memory beside correctness: ours, stock implementations, and official algorithms."""
