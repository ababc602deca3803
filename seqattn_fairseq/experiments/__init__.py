"""An experiment from raw text to a scored result: its steps, its cost, and what is written down."""
