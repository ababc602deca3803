"""One self-contained page that compares runs: its data, and the page made of them."""
